"""BatchNorms that a test can see: fresh ones are nearly the identity, which would hide a mistake."""

from torch import nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def randomize_norms(model: nn.Module) -> None:
    """In place: statistics, and scale and shift where a norm has them."""
    for module in model.modules():
        if isinstance(module, NORMS):
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
