"""Networks: tensor in, logits out. They know nothing of files, videos or configurations. One file a paper."""
