"""Several runs trained by one program: their networks stacked, their optimizers' steps taken together."""
