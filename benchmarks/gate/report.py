"""The gate's verdicts for CI and pull requests: JSON, JUnit XML, Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gate.verdict import Finding, drifted

# XML 1.0 can't represent these characters, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Checked:
    """One artifact: its key and the verdicts, or why it could not be compared."""

    artefact: str
    key: str
    findings: tuple[Finding, ...] = ()
    missing: str | None = None

    @property
    def drifted(self) -> list[Finding]:
        """The figures that fail the gate."""
        return drifted(list(self.findings))

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "artefact": self.artefact,
            "key": self.key,
            "missing": self.missing,
            "drifted": [finding.figure for finding in self.drifted],
            "findings": [finding.as_json() for finding in self.findings],
        }


def junit(results: Sequence[Checked]) -> str:
    """Write one suite per artifact and one case per figure; figures not compared are skipped.

    GitHub Actions, GitLab and Jenkins agree only on these elements:
    https://github.com/testmoapp/junitxml.
    """
    root = ElementTree.Element("testsuites", name="exporter check")
    for one in results:
        skipped = [finding for finding in one.findings if finding.verdict == "not compared"]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_xml(one.key),
            tests=str(max(len(one.findings) + (one.missing is not None), 1)),
            failures=str(len(one.drifted)),
            errors="0",
            skipped=str(len(skipped) + (one.missing is not None)),
        )
        if one.missing is not None:
            case = ElementTree.SubElement(
                suite, "testcase", classname=_xml(one.key), name="baseline"
            )
            ElementTree.SubElement(case, "skipped", message=_xml(one.missing))
        for finding in one.findings:
            case = ElementTree.SubElement(
                suite, "testcase", classname=_xml(one.key), name=finding.figure
            )
            said = _xml(f"{finding.rung}: {finding.detail}")
            if finding.verdict == "drifted":
                failure = ElementTree.SubElement(case, "failure", type="drift", message=said)
                failure.text = _xml(f"{finding.before} -> {finding.now}\n{finding.why}")
            elif finding.verdict == "not compared":
                ElementTree.SubElement(case, "skipped", message="nothing to compare on one side")
            else:
                ElementTree.SubElement(case, "system-out").text = f"{finding.verdict}; {said}"
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def markdown(results: Sequence[Checked], baseline: Path) -> str:
    """Write a step summary: what drifted and where, then one table per artifact."""
    bad = sum(len(one.drifted) for one in results)
    lines = [f"## exporter check: {_headline(bad)}", "", f"Baseline: `{baseline}`", ""]
    for one in results:
        lines += [f"### `{cell(one.key)}`", ""]
        if one.missing is not None:
            lines += [f"Not compared: {cell(one.missing)}", ""]
        if not one.findings:
            continue
        lines += ["| figure | at | verdict | baseline | now | where |", "|---|---|---|---|---|---|"]
        for finding in one.findings:
            verdict = finding.verdict
            shown = [
                finding.figure,
                finding.rung,
                f"**{verdict}**" if verdict == "drifted" else verdict,
                finding.before,
                finding.now,
                finding.detail,
            ]
            lines.append(f"| {' | '.join(map(cell, shown))} |")
        lines.append("")
    return "\n".join(lines) + "\n"


def _headline(count: int) -> str:
    return f"{count} figure{'' if count == 1 else 's'} drifted" if count else "nothing drifted"


def cell(text: str) -> str:
    """Escape a table cell: layer names come from untrusted files."""
    flat = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return flat.replace("<", "&lt;").replace("`", "'")


def _xml(text: str) -> str:
    return _NOT_XML.sub(" ", text)
