# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""transformers' own tests on the processor, the video processor and the feature extractor."""

import pytest


hf_harness = pytest.importorskip(
    "hf_harness", reason="transformers' common tests are not here: set CONFORMANCE_DIR (see conftest.py)"
)

from processing import (  # noqa: E402
    DeepAVFusionFeatureExtractor,
    DeepAVFusionProcessor,
    DeepAVFusionVideoProcessor,
    MAAVTFeatureExtractor,
    MAAVTProcessor,
    MAAVTVideoProcessor,
)


MAAVTProcessorTest = hf_harness.processor_test_case(
    "MAAVTProcessorTest",
    MAAVTProcessor,
    {"feature_extractor": MAAVTFeatureExtractor, "video_processor": MAAVTVideoProcessor},
)

# the common test takes a number for the shorter edge; this class makes a square of it unless told otherwise
MAAVTVideoProcessorTest = hf_harness.video_processor_test_case(
    "MAAVTVideoProcessorTest", MAAVTVideoProcessor, {"default_to_square": False}
)

MAAVTFeatureExtractorTest = hf_harness.feature_extractor_test_case(
    "MAAVTFeatureExtractorTest", MAAVTFeatureExtractor, {"sampling_rate": 16000}
)

DeepAVFusionProcessorTest = hf_harness.processor_test_case(
    "DeepAVFusionProcessorTest",
    DeepAVFusionProcessor,
    {"feature_extractor": DeepAVFusionFeatureExtractor, "video_processor": DeepAVFusionVideoProcessor},
)

DeepAVFusionFeatureExtractorTest = hf_harness.feature_extractor_test_case(
    "DeepAVFusionFeatureExtractorTest", DeepAVFusionFeatureExtractor, {"sampling_rate": 16000}
)
