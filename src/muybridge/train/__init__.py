"""From labelled videos to a trained network: `muybridge.train.run.train`.

The loop is `loop.fit`; what moves the weights is in `optim`, what is kept in `checkpoint`, what is told in
`log`, and what is chosen for someone who only has a folder in `defaults`.
"""
