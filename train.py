# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes MA-AVT on clips: YAML, data, model, PEFT, Trainer, table, card, Hub.

python train.py configs/folder.yaml --data my_clips --learning_rate 1e-3
torchrun --nproc_per_node 2 train.py configs/folder.yaml --data my_clips
accelerate launch train.py configs/folder.yaml --data my_clips
"""

from training.common.commands import run_command
from training.maavt.options import show_help_if_asked


def main(argv: list[str] | None = None) -> dict:
    """Runs the recipe; returns what it writes to `results.json`."""
    show_help_if_asked(__doc__, argv)
    from training.maavt import stages  # PyTorch and transformers: only now, they take seconds

    recipe = stages.read_recipe(argv)
    with stages.output_folder(recipe):
        clips = stages.read_clips(recipe)
        model = stages.build_model(recipe, clips.label_names, clips.multi_label)
        data = stages.build_data(recipe, clips, model)
        if recipe.run.dry_run:
            return stages.dry_run(recipe, clips, data, model)

        trainer = stages.build_trainer(recipe, clips, data, model)
        trained = stages.train(trainer, recipe)
        measured, official = stages.evaluate(trainer, recipe, clips, data)
        return stages.save(trainer, recipe, clips, data, trained, measured, official)


if __name__ == "__main__":
    run_command(main)
