"""What the methods share: boxes, masks, saliency, teachers, mix blocks."""
