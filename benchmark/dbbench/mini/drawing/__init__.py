"""The drawings of the embedded world: shapes, class nouns, outfits, places, scenes."""
