"""The nodes: schema and a short `execute` each, over the stages of `retouch_core`. Nothing else here knows ComfyUI."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io


class TextRetouch(ComfyExtension):
    """What the host registers."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack, in the order of a graph."""
        from .adaptive_threshold import RetouchAdaptiveThreshold
        from .composite import RetouchComposite
        from .conditional_cfg import RetouchConditionalCFG
        from .crop_region import RetouchCropRegion
        from .dilate_mask import RetouchDilateMask
        from .entity_segment import RetouchEntitySegment
        from .guidance import RetouchGuidance
        from .learn_region import RetouchLearnRegion
        from .load_attention import RetouchLoadAttention
        from .load_embedded import RetouchLoadEmbedded
        from .load_perceptual import RetouchLoadPerceptual
        from .load_referrer import RetouchLoadReferrer
        from .load_scorer import RetouchLoadScorer
        from .load_segmenter import RetouchLoadSegmenter
        from .location_filter import RetouchLocationFilter
        from .masks_to_regions import RetouchMasksToRegions
        from .measure import RetouchMeasure
        from .noise_contrast_mask import RetouchNoiseContrastMask
        from .prune_candidates import RetouchPruneCandidates
        from .rank_candidates import RetouchRankCandidates
        from .referring_segment import RetouchReferringSegment
        from .region_sampler import RetouchRegionSampler
        from .region_scores import RetouchRegionScores
        from .scorer_from_clip import RetouchScorerFromCLIP
        from .stitch_region import RetouchStitchRegion

        return [
            RetouchLoadEmbedded,
            RetouchScorerFromCLIP,
            RetouchEntitySegment,
            RetouchMasksToRegions,
            RetouchRegionScores,
            RetouchAdaptiveThreshold,
            RetouchLocationFilter,
            RetouchLearnRegion,
            RetouchDilateMask,
            RetouchCropRegion,
            RetouchConditionalCFG,
            RetouchGuidance,
            RetouchRegionSampler,
            RetouchStitchRegion,
            RetouchComposite,
            RetouchRankCandidates,
            RetouchMeasure,
            RetouchReferringSegment,
            RetouchNoiseContrastMask,
            RetouchPruneCandidates,
            RetouchLoadSegmenter,
            RetouchLoadScorer,
            RetouchLoadReferrer,
            RetouchLoadAttention,
            RetouchLoadPerceptual,
        ]
