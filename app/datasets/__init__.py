"""Data sets: named collections of labelled images, frozen as versions."""
