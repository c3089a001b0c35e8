# placeholder while the tree is laid out; replaced by the real one
