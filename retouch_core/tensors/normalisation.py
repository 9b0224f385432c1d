"""Mean and deviation of colours, in 0..1, that published image towers were trained with."""

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's (openai/CLIP, clip.py), which OWLv2 took over."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's (torchvision, models)."""

HALF_MEAN, HALF_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
"""To -1..1: SigLIP's (big_vision, value_range(-1, 1)) and SAM 3's."""
