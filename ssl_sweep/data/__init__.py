"""Image sets: where they come from, how they are packed once, and how they are split."""
