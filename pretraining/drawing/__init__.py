"""Images drawn by formulas: textures, shapes, colours, and scenes made of them. Knows numpy and Pillow alone.

A *family* takes a random generator and settles the parameters of one category, a formula. A formula takes a random
generator and draws one instance. The same generators give the same pixels.
"""
