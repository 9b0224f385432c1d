"""Measuring on lists of pictures with words: COCO, Flickr30K and PIE-Bench layouts, or a list of one's own."""
