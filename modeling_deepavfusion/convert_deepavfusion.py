# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Converts published checkpoints: of DeepAVFusion, or of the MAE and AudioMAE encoders that it starts from.

    python -m modeling_deepavfusion.convert_deepavfusion deepavfusion_vitb_vggsound.pth converted
    python -m modeling_deepavfusion.convert_deepavfusion mae_vitb.pth audiomae_vitb.pth start

Own files only: their licenses may forbid to pass the result on. A DeepAVFusion file becomes the model that it holds
(encoder, pre-training, classification), whatever its size. One or two MAE files become a pre-training model whose fusion
blocks and decoders are new; a ViT that reads one channel is the sound's.
"""

import argparse
import json
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import torch

from .classification_deepavfusion import DeepAVFusionForAudioVisualClassification
from .configuration_deepavfusion import DeepAVFusionConfig
from .modeling_deepavfusion import DeepAVFusionModel, DeepAVFusionPreTrainedModel
from .pretraining_deepavfusion import DeepAVFusionForPreTraining
from .published_deepavfusion import config_of_encoder, encoder_to_ours, task_to_ours, vit_to_ours


# of an MAE file, what its encoder does not need here: positions are computed, and there is no class token
DROPPED = ("cls_token", "pos_embed", "mask_token", "decoder_")


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Tensors by name; unpacks `model` or `state_dict`, strips `module.`.

    Raises:
        FileNotFoundError, ValueError: no such file, or one that holds more than tensors and plain values.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file; give the .pth file of a published checkpoint.")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options of a training, in some files
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path}: not a checkpoint of tensors that can be read safely ({str(error).splitlines()[0]}); save its state "
            "dict alone and convert that."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(torch.is_tensor(v) for v in content.values()):
        raise ValueError(f"{path}: expected tensors by name, or those under 'model' or 'state_dict'.")
    return {name.removeprefix("module."): value for name, value in content.items()}


def convert(
    files: list[str | os.PathLike],
    fields: dict | None = None,
    token_counts: tuple[int, int, int] | None = None,
    seed: int = 0,
) -> DeepAVFusionPreTrainedModel:
    """The model behind one DeepAVFusion file, or behind one or two MAE files; prints what is dropped and what is new.

    Args:
        files: paths.
        fields: of [`DeepAVFusionConfig`], over what the weights' shapes say.
        token_counts: fusion, visual and audio aggregation tokens, which the shapes do not tell apart.
        seed: of new weights.

    Raises:
        KeyError, RuntimeError: a name that is unknown or missing, or a shape that does not fit `fields`.
        ValueError: files that do not belong together.
    """
    torch.manual_seed(seed)
    loaded = {str(path): read_weights(path) for path in files}
    fused = [path for path, weights in loaded.items() if any("fusion_tokens" in name for name in weights)]
    if not fused:
        return start_from_vits(loaded, fields or {})
    if len(loaded) > 1:
        raise ValueError(f"{fused[0]} is a whole DeepAVFusion; give it alone.")
    return from_published(loaded[fused[0]], fields or {}, token_counts)


def from_published(
    weights: dict[str, torch.Tensor], fields: dict, token_counts: tuple[int, int, int] | None = None
) -> DeepAVFusionPreTrainedModel:
    """A published model under its own class."""
    task = "encoder.fusion_tokens" in weights
    encoder = {
        name.removeprefix("encoder."): value for name, value in weights.items() if not task or "encoder." in name
    }
    config = config_of_encoder(encoder, fields.get("num_attention_heads"), token_counts, fields.get("num_mel_bins"))
    model_class = DeepAVFusionModel
    if "image_decoder_mask_token" in weights:
        model_class = DeepAVFusionForPreTraining
        width = weights["image_decoder_mask_token"].shape[-1]
        depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("image_decoder_blocks."))
        config.decoder_hidden_size, config.decoder_num_hidden_layers = width, depth
        config.decoder_num_attention_heads = max(width // 32, 1)
        config.decoder_intermediate_size = weights["image_decoder_blocks.0.mlp.fc1.weight"].shape[0]
    elif "fusion_head.weight" in weights:
        model_class = DeepAVFusionForAudioVisualClassification
        config.num_labels = weights["fusion_head.weight"].shape[0]
        config.use_pooled_batchnorm = "fusion_norm.running_mean" in weights
    elif task:
        raise KeyError(
            "only an encoder with a prefix and no head that is known here; save the encoder's weights alone."
        )
    config = DeepAVFusionConfig(**{**config.to_diff_dict(), **fields})
    ours = task_to_ours(weights, config.fusion_type) if task else encoder_to_ours(weights, config.fusion_type)
    model = model_class(config)
    model.load_state_dict(ours)
    print(f"{model_class.__name__}, {config.fusion_type}: {len(weights)} tensors converted, nothing dropped")
    return model


def start_from_vits(loaded: dict[str, dict[str, torch.Tensor]], fields: dict) -> DeepAVFusionForPreTraining:
    """A pre-training model whose ViTs are MAE encoders; positions stay the computed ones."""
    ours, sizes, sources = {}, {}, {}
    for path, weights in loaded.items():
        if "patch_embed.proj.weight" not in weights:
            raise KeyError(f"{path}: neither fusion_tokens nor patch_embed.proj.weight: no DeepAVFusion and no MAE.")
        width, channels, patch, _ = weights["patch_embed.proj.weight"].shape
        modality = "audio" if channels == 1 else "image"
        if modality in sources:
            raise ValueError(f"{path} and {sources[modality]} are both an {modality} encoder; give one of each.")
        sources[modality] = path
        kept = {name: value for name, value in weights.items() if not name.startswith(DROPPED)}
        blocks = {int(name.split(".")[1]) for name in kept if name.startswith("blocks.")}
        found = {
            "hidden_size": width,
            "num_hidden_layers": len(blocks),
            "num_attention_heads": max(width // 64, 1),
            "intermediate_size": kept["blocks.0.mlp.fc1.weight"].shape[0],
            "patch_size": patch,
        }
        if sizes not in ({}, found):
            raise ValueError(f"{path}: the two ViTs differ, {found} and {sizes}; DeepAVFusion needs equal ones.")
        sizes = found
        ours |= vit_to_ours(kept, modality)
        dropped = sorted({name.split(".")[0] for name in weights if name not in kept})
        print(f"{path}: {len(kept)} tensors to the {modality} ViT; dropped: {', '.join(dropped) or 'nothing'}")
    model = DeepAVFusionForPreTraining(DeepAVFusionConfig(**{**sizes, **fields}))
    encoder = model.deepavfusion
    missing, unexpected = encoder.load_state_dict(ours, strict=False)
    lost = [name for name in missing if _of_vit(name, sources) and not name.endswith("position_embeddings")]
    if lost or unexpected:
        raise KeyError(f"{', '.join(sources.values())}: missing {sorted(lost)}, unknown {sorted(unexpected)}.")
    absent = {"image", "audio"} - set(sources)
    print(f"new and untrained: fusion tokens, fusion blocks, decoders{''.join(f', {name} ViT' for name in absent)}")
    return model


def _of_vit(name: str, modalities) -> bool:
    """Whether a weight of the encoder belongs to the ViT of one of `modalities`."""
    parts = name.split(".")
    return any(parts[0].startswith(f"{modality}_") or parts[2:3] == [modality] for modality in modalities)


def save_whole(model: DeepAVFusionPreTrainedModel, output: str | os.PathLike) -> None:
    """Save into a temporary folder and rename it, so that `output` is whole or absent.

    Raises:
        FileExistsError: `output` holds something already.
    """
    output = Path(output)
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty; give a new folder.")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        model.save_pretrained(temporary)
        temporary.chmod(0o755)
        temporary.replace(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="one DeepAVFusion checkpoint, or one or two MAE checkpoints")
    parser.add_argument("output", help="new folder for the converted model")
    parser.add_argument(
        "--model_config", type=json.loads, default={}, help="JSON: fields of DeepAVFusionConfig to set"
    )
    parser.add_argument(
        "--tokens", type=int, nargs=3, help="fusion, visual, audio tokens where not half, quarter, quarter"
    )
    parser.add_argument("--seed", type=int, default=0, help="of new weights")
    arguments = parser.parse_args(argv)
    tokens = None if arguments.tokens is None else tuple(arguments.tokens)
    model = convert(arguments.files, arguments.model_config, tokens, arguments.seed)
    save_whole(model, arguments.output)
    print(f"saved: {arguments.output}")


if __name__ == "__main__":
    main()
