"""Training the super-resolution models; nothing here is needed to use them."""
