# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes a Hugging Face Space with the page: it needs neither this package nor a network to start."""

import re
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import yaml
from transformers.utils.peft_utils import find_adapter_config_file

from processing.data.atomic_writing import atomic_folder

from .web_page import Limits


ROOT = Path(__file__).resolve().parent.parent
PAGE = "maavt_page"  # the folder of the copied code
IMPORT = re.compile(r"^from (?:\.|(?:processing|training)\.(?:\w+\.)*)(\w+) import", re.MULTILINE)
PACKAGES = ("gradio", "torch", "torchvision", "torchaudio", "transformers", "av", "matplotlib")

APP = '''"""Starts the page. `python app.py` does the same on any machine with the packages of requirements.txt."""

import transformers

from {page}.web_page import Limits, serve


# Name, the class of transformers that loads the model, and its folder here or its name on the Hub.
MODELS = {models!r}
EXAMPLES = {examples!r}


def load(auto_class, source):
    model = getattr(transformers, auto_class).from_pretrained(source, trust_remote_code=True)
    return model.eval(), transformers.AutoProcessor.from_pretrained(source, trust_remote_code=True)


if __name__ == "__main__":
    models = {{name: load(auto_class, source) for name, auto_class, source in MODELS}}
    serve(models, EXAMPLES, {limits!r}, {title!r})
'''


def write_space(
    folder: str | Path,
    models: dict[str, tuple],
    sources: dict[str, str],
    examples: Sequence[Path],
    limits: Limits,
    title: str,
) -> list[Path]:
    """Writes the Space's folder and returns its files.

    Args:
        folder: is made anew.
        models: (model, processor) by name.
        sources: by name, the folder or Hub name that a model was loaded from. Models of the Hub stay there, but adapters.
        examples: clips that go into the Space.
        limits: see `Page`.
        title: of the page and of the Space.
    """
    with atomic_folder(folder) as temporary:
        # The page and what it imports of this package, side by side.
        (temporary / PAGE).mkdir()
        (temporary / PAGE / "__init__.py").touch()
        for file in imported_files(ROOT / "app" / "web_page.py"):
            text = IMPORT.sub(r"from .\1 import", file.read_text(encoding="utf-8"))
            (temporary / PAGE / file.name).write_text(text, encoding="utf-8")

        # Models with their code, except those that the Hub has whole; clips.
        rows = []
        for name, (model, processor) in models.items():
            source = sources[name]
            if Path(source).exists() or find_adapter_config_file(source):
                source = f"models/model_{len(rows)}"
                model.save_pretrained(temporary / source)
                processor.save_pretrained(temporary / source)
            rows.append((name, type(model)._auto_class, source))
        (temporary / "examples").mkdir()
        clips = [f"examples/{index}_{Path(file).name}" for index, file in enumerate(examples, 1)]
        for file, clip in zip(examples, clips, strict=True):
            shutil.copy(file, temporary / clip)

        # What starts it.
        app = APP.format(page=PAGE, models=rows, examples=clips, limits=limits, title=title)
        (temporary / "app.py").write_text(app, encoding="utf-8")
        (temporary / "requirements.txt").write_text(requirements(), encoding="utf-8")
        hub_names = [source for _, _, source in rows if not source.startswith("models/")]
        (temporary / "README.md").write_text(readme(title, hub_names), encoding="utf-8")
    return sorted(file for file in Path(folder).rglob("*") if file.is_file())


def imported_files(start: Path) -> list[Path]:
    """A file of this package and those that it imports, directly or through others."""
    files, waiting = [], [start]
    while waiting:
        file = waiting.pop()
        if file in files:
            continue
        files.append(file)
        for line in IMPORT.finditer(file.read_text(encoding="utf-8")):
            module = line[0].split()[1]
            target = file.parent if module.startswith(".") else ROOT
            waiting.append(target.joinpath(*module.strip(".").split(".")).with_suffix(".py"))
    return files


def requirements() -> str:
    """The packages with the versions that are installed here."""
    lines = [f"{name}=={version(name).partition('+')[0]}" for name in PACKAGES]
    return "\n".join(lines) + "\n"


def readme(title: str, hub_names: list[str]) -> str:
    """The Space's card; the Hub reads its header."""
    header = {
        "title": title,
        "emoji": "🎬",
        "colorFrom": "blue",
        "colorTo": "purple",
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "python_version": "{}.{}".format(*sys.version_info),
        "app_file": "app.py",
        "models": hub_names,
    }
    text = yaml.safe_dump({key: value for key, value in header.items() if value}, sort_keys=False, allow_unicode=True)
    start = "`pip install -r requirements.txt` and `python app.py` start the page on any machine."
    return (
        f"---\n{text}---\n\n# {title}\n\nGive a clip, and see what a model of audio and video makes of it. {start}\n"
    )
