"""The networks of the catalogue as they are described by hand, family by family. Knows no torch."""

from app.backbones.families import inception, mobile, modern, plain, residual

ENTRIES = (*plain.ENTRIES, *inception.ENTRIES, *residual.ENTRIES, *mobile.ENTRIES, *modern.ENTRIES)
