"""A saved model in the format of another tool: `lowrank export --help` says how."""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Collection
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from experiments.composed import on_one_line

if TYPE_CHECKING:
    from torch import nn

    from lowrank.export.formats.plain import PlainModules


PLAIN = (int, float, str)
# The options of the format plain that others have too: the model is cut before.
CUT = ("cut", "example")


def main() -> None:
    """The program of the command line; an error is one line on stderr."""
    from lowrank.export.formats import FORMATS

    first = _parser(add_help=False)
    first.add_argument("--format", choices=sorted(FORMATS))
    known, _ = first.parse_known_args()
    parser = _parser()
    _add_options(parser, known.format, sorted(FORMATS))
    given = vars(parser.parse_args())
    try:
        export(**given)
    except (ValueError, OSError) as error:
        sys.exit(f"export: {on_one_line(error)}")


def export(
    file: str,
    format: str,
    out: str | None,
    model: str | None,
    multiply_out: bool,
    plan: bool,
    push: str | None = None,
    **options: Any,
) -> None:
    """Print what an export would write, and write it.

    Args:
        out: the folder; None with `plan` only.
        model: ``package.module:builder`` of the dense model, where the file does not name its
            class.
        plan: whether nothing is written.
        push: the name on the hub under which the folder is uploaded.
        options: the fields of the format; of all, `cut` and an `example` for it.

    Raises:
        ValueError, OSError: as `lowrank.load`, `lowrank.export_model` and `lowrank.push_to_hub`.
    """
    import lowrank
    from lowrank.export.formats import format_named
    from lowrank.export.formats.hf.push import check_upload
    from lowrank.files.atomic import check_new
    from lowrank.files.paths import as_path

    # All before the model is loaded, which may take minutes.
    cut_before = _cut_before(format, options)
    chosen = format_named(format, **options)
    if not plan:
        if out is None:
            raise ValueError("--out is not given: name the folder to write, or give --plan")
        check_new(as_path(out, "--out"))
    if push is not None:
        check_upload(push)
    loaded = _loaded(file, model)
    if cut_before is not None:
        print(replace(cut_before.plan(loaded), format="cut").describe(), flush=True)
        loaded = lowrank.cut_model(loaded, cut_before.example).model
    print(lowrank.plan_export(loaded, chosen).describe(), flush=True)
    if out is not None and not plan:
        lowrank.export_model(loaded, chosen, out, multiply_out=multiply_out)
        print(out, flush=True)
        if push is not None:
            print(lowrank.push_to_hub(out, push))


def _cut_before(format: str, options: dict[str, Any]) -> PlainModules | None:
    """How a model is cut before it is exported, if that is asked for and is no option of the format
    itself; taken out of the options."""
    from lowrank.export.formats import options_of
    from lowrank.export.formats.plain import PlainModules

    own = options_of(format)
    if "cut" in own or not options.pop("cut", False):
        return None
    example = options.get("example") if "example" in own else options.pop("example", None)
    return PlainModules(cut=True, example=example)


def _loaded(file: str, builder: str | None) -> nn.Module:
    import lowrank
    from lowrank.tasks.builders import import_builder

    return lowrank.load(file, None if builder is None else import_builder(builder))


def _parser(**options: Any) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog="lowrank export",
        description="Write a model of lowrank.save into a folder that another tool loads. What "
        "becomes of each layer, and what the files will weigh, is printed before they are written.",
        allow_abbrev=False,
        **options,
    )


def _add_options(parser: argparse.ArgumentParser, chosen: str | None, formats: list[str]) -> None:
    parser.add_argument("file", help="of lowrank.save")
    parser.add_argument("--format", choices=formats, required=True)
    parser.add_argument("--out", help="the folder, which is made")
    parser.add_argument(
        "--model",
        metavar="MODULE:BUILDER",
        help="a function that makes the dense model, if the file does not name its class",
    )
    parser.add_argument(
        "--multiply-out",
        action="store_true",
        help="let layers that the format cannot hold become dense",
    )
    parser.add_argument("--plan", action="store_true", help="print what would be written, only")
    parser.add_argument(
        "--push",
        metavar="ORGANISATION/MODEL",
        help="upload the folder to the hub, as a private model; the token is that in HF_TOKEN",
    )
    if chosen is not None:
        from lowrank.export.formats import format_class, options_of

        cls = format_class(chosen)
        about = (cls.__doc__ or "").split("\n\n")[0]
        _add_fields(parser.add_argument_group(f"options of {chosen}", " ".join(about.split())), cls)
        own = options_of(chosen)
        _add_fields(parser, format_class("plain"), [name for name in CUT if name not in own])
    else:
        parser.epilog = "With --format, --help also has the options of that format."


def _add_fields(group: Any, cls: Any, names: Collection[str] | None = None) -> None:
    hints = get_type_hints(cls)
    for field in fields(cls):
        if names is None or field.name in names:
            _add_field(group, field, hints[field.name])


def _add_field(group: Any, field: Field, hint: Any) -> None:
    """An option for a field of a format, by what it may be."""
    required = field.default is MISSING and field.default_factory is MISSING
    default = None if required else field.default
    options: dict[str, Any] = {"dest": field.name, "required": required}
    if not required:
        # Left out of what the format is given, unless it is said.
        options["default"] = argparse.SUPPRESS
        options["help"] = field.metadata.get("help", f"default: {default}")
    kinds = [kind for kind in _alternatives(hint) if kind is not types.NoneType]
    name = f"--{field.name.replace('_', '-')}"
    if kinds == [bool]:
        group.add_argument(name, action=argparse.BooleanOptionalAction, **options)
    elif all(get_origin(kind) is Literal for kind in kinds):
        choices = [choice for kind in kinds for choice in get_args(kind)]
        group.add_argument(name, choices=choices, **options)
    elif (len(kinds) == 1 and kinds[0] in PLAIN) or {*kinds} >= {str, Path}:
        # What may be a path is one here, whatever else it may be in Python.
        kind = str if {*kinds} >= {str, Path} else kinds[0]
        group.add_argument(name, type=kind, **options)
        if default is not None and len(kinds) < len(_alternatives(hint)):
            without = {"action": "store_const", "const": None, "help": f"without {field.name}"}
            options = {"dest": field.name, "default": argparse.SUPPRESS}
            group.add_argument(f"--no-{name.removeprefix('--')}", **without, **options)
    # Others, such as mappings, are for Python only.


def _alternatives(hint: Any) -> tuple[Any, ...]:
    is_union = get_origin(hint) in (Union, types.UnionType)
    return get_args(hint) if is_union else (hint,)


if __name__ == "__main__":
    main()
