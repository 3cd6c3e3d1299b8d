"""A decoder trained on bytes by Muon, by AdamW, or by both side by side."""
