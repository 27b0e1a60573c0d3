"""Transfer: how well a pre-trained backbone segments and detects."""
