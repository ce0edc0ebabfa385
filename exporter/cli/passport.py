"""What a passport says, as lines of a name and a value."""

from __future__ import annotations

from collections import Counter
from typing import Any

from exporter.artifact.folder import quantization_of


def passport_lines(passport: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the most useful facts of a passport as (name, value) lines."""
    graph, check, source = passport["graph"], passport["check"], passport["source"]
    ports = [f"{p['name']} {p['shape']} {p['dtype'].lower()}" for p in graph["inputs"]]
    outs = [f"{p['name']} {p['shape']} {p['dtype'].lower()}" for p in graph["outputs"]]
    folded = passport["passes"]["fold_batch_norm"]
    preprocessing = passport["preprocessing"]
    lines = [
        ("source", f"{source['model']} ({source['kind']}, weights: {source['weights']})"),
        ("target", f"{passport['target']}, {passport['precision']}"),
        ("input", ", ".join(ports)),
        ("output", ", ".join(outs)),
        ("preprocessing", preprocessing["name"] if preprocessing else "unknown"),
        ("graph", ", ".join(f"{count} {op}" for op, count in graph["ops"].items())),
        ("parameters", f"{graph['parameters']:,}"),
        ("batch norms folded", str(folded["applied"])),
    ]
    lines += [("  not folded", f"{kept['node']}: {kept['reason']}") for kept in folded["kept"]]
    lines += [
        (
            "FP32 against Keras",
            f"{check['images']} images of {check['data']}: "
            f"{check['label_flips']} label flips, largest logit error "
            f"{check['max_relative_error']:.1e} of the largest logit",
        ),
        (
            "files",
            ", ".join(f"{n} {f['bytes'] / 1e6:.1f} MB" for n, f in passport["files"].items()),
        ),
    ]
    lines[-1:-1] = _keras_lines(check)
    if found := quantization_of(passport):
        lines += _quantized_lines(passport["precision"], found, passport["passes"])
    if fp16 := passport.get("fp16"):
        lines += _fp16_lines(fp16, passport["passes"]["to_fp16"]["kept"])
    engine = passport.get(passport["target"], {})
    if "provider" in engine:
        lines += provider_lines(engine)
    elif "compiled" in engine:
        lines += engine_lines(engine, passport.get("engine"))
    elif executed := engine.get("executed"):
        lines.append(("executed", f"{', '.join(executed['summary'])}; on {executed['cpu']}"))
    accuracy = passport.get("measured", {}).get("accuracy")
    if accuracy:
        shown = f"{accuracy['top1']:.4f} on {accuracy['images']} images"
        if tested := accuracy.get("paired"):
            low, high = tested["interval_points"]
            shown += f", {tested['change_points']:+.2f} points ({low:+.2f} to {high:+.2f})"
        lines.append(("measured top-1", shown))
    return lines


def _keras_lines(check: dict[str, Any]) -> list[tuple[str, str]]:
    """Describe how exact the original is, if the comparison had to know."""
    from exporter.proof import NOISY

    lines = []
    if (error := check.get("keras_error")) is not None:
        shown = f"off by {error:.1e} itself, against {check['reference']}"
        noisy = "; that is much, so labels may flip by rounding alone" if error > NOISY else ""
        lines.append(("  Keras", shown + noisy))
    if own := check.get("own_precision"):
        lines.append(
            (
                "  in its own precision",
                f"{own['label_flips']} label flips, largest logit error "
                f"{own['max_relative_error']:.1e}",
            )
        )
    return lines


def _quantized_lines(
    precision: str, found: dict[str, Any], passes: dict[str, Any]
) -> list[tuple[str, str]]:
    width = "7-bit weights, for CPUs without VNNI" if found["reduce_range"] else "8 bits"
    how = f"{found['calibrator']} on {found['calibration_images']} training images"
    how += " (stopped early because the ranges had settled)" if found.get("stopped_early") else ""
    lines = [(precision, f"scheme {found['scheme']}, {how}, {width}")]
    lines += _budget_lines(precision, found["max_drop"]) if found.get("max_drop") else []
    touched = (f"{name} ({count} nodes)" for name, count in found["recovery"].items())
    lines += [("  recovery", ", ".join(touched))] if found["recovery"] else []
    kept = Counter(each["reason"] for each in passes.get("insert_qdq", {}).get("kept", ()))
    del kept["asked for"]  # the budget lines name these
    lines += [("  stays in float", f"{count}: {reason}") for reason, count in kept.items()]
    return lines + [("  warning", warning) for warning in found["warnings"]]


def _fp16_lines(fp16: dict[str, Any], kept: list[dict[str, str]]) -> list[tuple[str, str]]:
    loss = fp16["simulated_against_untyped"]
    lines = [
        (
            "fp16",
            f"inputs and outputs {fp16['io']}, nodes kept FP32: {len(kept)}; simulated: "
            f"{loss['label_flips']} label flips, largest logit error "
            f"{loss['max_relative_error']:.1e} of the largest logit",
        )
    ]
    lines += [("  kept FP32", f"{each['node']}: {each['reason']}") for each in kept]
    return lines + [("  warning", warning) for warning in fp16["warnings"]]


def _budget_lines(precision: str, budget: dict[str, Any]) -> list[tuple[str, str]]:
    lost, images = budget["lost_images"], budget["images"]
    lines = [
        (
            "  top-1 lost",
            f"{budget['lost_points']:.2f} points ({lost} of {images:,} held-out training images); "
            f"the limit is {budget['points']:g}",
        )
    ]
    for kept in budget["kept"]:
        name, without = kept["keras_layer"] or kept["node"], kept["lost_images_without"]
        lines.append(
            ("  kept in float", f"{name}: {precision.upper()} would lose {without} images")
        )
    return lines


def engine_lines(engine: dict[str, Any], record: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return lines about a TensorRT engine: how it was built, or how to build it.

    Args:
        engine: the passport's entry under the target's name.
        record: an `exporter.engines.record.EngineRecord` as JSON, or None if nothing was built.
    """
    if record is not None:
        profile = "; ".join(
            f"{name} {' to '.join('x'.join(map(str, shapes[end])) for end in ('min', 'max'))}"
            for name, shapes in record["profile"].items()
        )
        built = f"{record['flavour']} {record['tensorrt']} in {engine['build_seconds']:.1f} s"
        later = " and later" if record["hardware_compatibility"] == "ampere+" else ""
        capabilities = ", ".join(record["compute_capabilities"])
        lines = [
            ("engine", f"{built}, {engine['typing']}; {profile}"),
            ("built for", f"compute capability {capabilities}{later}"),
        ]
        if dla := engine["dla"]:
            on_gpu = ", ".join(dla["on_gpu"]) or "nothing"
            lines.append(("DLA", f"core {record['dla_core']}; on the GPU: {on_gpu}"))
        warnings = engine["warnings"]
    else:
        checked = engine["parser"]
        parser = (
            f"{checked['module']} {checked['version']}" if checked else "no parser on this machine"
        )
        lines = [
            ("not compiled", engine["why"]),
            ("parsed by", parser),
            ("to finish", "copy the folder to the target machine and run: exporter compile FOLDER"),
            ("  or, in the folder", engine["trtexec"]),
        ]
        warnings = checked["warnings"] if checked else []
    lines += [("executed", engine["executed"])] if "executed" in engine else []
    return lines + [("  warning", warning) for warning in warnings]


def provider_lines(engine: dict[str, Any]) -> list[tuple[str, str]]:
    """Return lines about an onnxruntime provider: where nodes run, or how to compile for it.

    Args:
        engine: the passport's entry under the target's name.
    """
    lines = [("provider", engine["provider"])]
    if not engine["compiled"]:
        finish = "copy the folder to the target machine and run: exporter compile FOLDER"
        return [*lines, ("not compiled", engine["why"]), ("to finish", finish)]
    placement = engine["placement"]
    versions = ", ".join(f"{name} {version}" for name, version in engine["versions"].items())
    nodes = (f"{count} on {name}" for name, count in placement["nodes"].items())
    lines += [("compiled on", f"{engine['gpu']}, {versions}"), ("nodes", ", ".join(nodes))]
    return lines + [
        ("  fell back", f"{each['op_type']} {each['node']}: {each['provider']}")
        for each in placement["elsewhere"]
    ]
