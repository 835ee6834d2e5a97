"""Pre-training without photographs: images drawn by formulas, and a network that learns to tell the formulas apart.

Not part of the wheel; what it makes is (`app/backbones/data`). Nothing imports it.
"""
