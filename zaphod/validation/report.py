"""The report: one HTML file that needs nothing else, made from validation.json and the bundle alone."""

from __future__ import annotations

from collections.abc import Sequence

from zaphod.bundle import Bundle
from zaphod.reporting.page import code, figure, p_text, page, table, text, tile
from zaphod.reporting.svg import interval_bar
from zaphod.validation import plots
from zaphod.validation.card import domain
from zaphod.validation.measured import Comparison, Measured, Role
from zaphod.validation.pictures import Curve, Pictures
from zaphod.validation.plots import Line
from zaphod.validation.results import Validation
from zaphod.validation.rows import Kind
from zaphod.validation.settings import ValidationSettings
from zaphod.validation.verdict import Check

_ROLE_TITLES = {
    Role.CANDIDATE: "this version",
    Role.CHAMPION: "champion",
    Role.LINEAR: "linear baseline",
    Role.DUMMY: "dummy",
}
_LEGENDS = {**_ROLE_TITLES, Role.LINEAR: "linear"}
_DRIFTED_SHOWN = 2


def render_report(validation: Validation, bundle: Bundle) -> str:
    """The whole page."""
    settings = ValidationSettings.model_validate_json(bytes(validation.settings))
    title = f"{bundle.name}@{bundle.version}"
    body = "".join(
        [
            _head(validation, title),
            _tiles(validation),
            _checks(validation),
            _metrics(validation),
            _pictures(validation, bundle, settings),
            _slices(validation),
            _drift(validation, settings),
            _card(validation, bundle),
            _notes(validation, settings),
        ]
    )
    return page(f"Validation of {title}", body)


def _head(validation: Validation, title: str) -> str:
    verdict = validation.verdict
    badge = (
        '<span class="badge passed">passed</span>'
        if verdict.passed
        else '<span class="badge failed">did not pass</span>'
    )
    holdout = validation.holdout
    against = (
        f"compared with champion version {validation.champion.version}"
        if validation.comparison(Role.CHAMPION) is not None and validation.champion is not None
        else f"not compared with a champion: {validation.champion_note}"
    )
    reasons = "".join(f"<li>{code(reason)}</li>" for reason in verdict.reasons)
    return (
        f'<div class="top"><h1>{text(title)}</h1>{badge}</div>'
        f'<p class="soft">{holdout.num_rows:,} rows of <code>{text(holdout.data.path)}</code>, {text(against)}. '
        f"{text(validation.created)}, zaphod {text(validation.zaphod_version)}, {validation.seconds:.1f} s.</p>"
        + (f'<div class="card reasons"><h3>Why not</h3><ul>{reasons}</ul></div>' if reasons else "")
    )


def _tiles(validation: Validation) -> str:
    against = validation.comparison(Role.CHAMPION)
    tiles = []
    for i, one in enumerate(validation.models[0].metrics[:4]):
        value, bounds = one.interval.texts()
        gain = "" if against is None else f"vs champion {_signed(against.gains[i])}"
        tiles.append(tile(one.metric.title, value, bounds or "", gain))
    latency = validation.latency
    tiles.append(
        tile("one row, p99", f"{latency.p99_ms:.3g} ms", f"median {latency.p50_ms:.3g} ms", f"engine {latency.engine}")
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _checks(validation: Validation) -> str:
    rows = "".join(_check_row(check) for check in validation.verdict.checks)
    return f"<h2>Checks</h2>{table(('check', '', 'what was found'), rows)}"


def _check_row(check: Check) -> str:
    return (
        f'<tr><td class="name">{text(check.name)}</td>'
        f'<td><span class="badge {check.status}">{check.status}</span></td>'
        f"<td>{code(check.detail)}</td></tr>"
    )


def _metrics(validation: Validation) -> str:
    others = validation.comparisons
    head = ["metric", "this version"]
    for one in others:
        head += (
            [_ROLE_TITLES[one.role], f"gain over {_ROLE_TITLES[one.role]}", ""]
            if one.role is Role.CHAMPION
            else [_ROLE_TITLES[one.role]]
        )
    rows = []
    for i, measured in enumerate(validation.models[0].metrics):
        arrow = "↑" if measured.metric.higher_is_better else "↓"
        cells = [f"<td>{text(measured.metric.title)} {arrow}</td>", _number(measured)]
        for comparison in others:
            model = validation.model(comparison.role)
            cells.append(_number(model.metrics[i]) if model else "<td></td>")
            if comparison.role is Role.CHAMPION:
                cells += [_number(comparison.gains[i]), f"<td>{_gain_bar(comparison, i)}</td>"]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    tests = "".join(
        f'<p class="soft">{text(test.name)} test against the champion: {text(test.detail)}; '
        f"statistic {test.statistic:.3f}, p = {p_text(test.p_value)}.</p>"
        for one in others
        for test in one.tests
    )
    note = f'<p class="soft">Baselines: {text(validation.baseline_note)}.</p>'
    return f"<h2>Metrics</h2>{table(tuple(head), ''.join(rows), below=tests + note)}"


def _number(measured: Measured) -> str:
    value, bounds = measured.interval.texts()
    spread = "" if bounds is None else f'<br><span class="soft">{bounds}</span>'
    return f'<td class="number">{value}{spread}</td>'


def _signed(gain: Measured) -> str:
    value, bounds = gain.interval.texts()
    sign = "+" if (gain.interval.value or 0.0) > 0 else ""
    return f"{sign}{value}" if bounds is None else f"{sign}{value} ({bounds})"


def _gain_bar(comparison: Comparison, position: int) -> str:
    interval = comparison.gains[position].interval
    if interval.value is None or interval.low is None or interval.high is None:
        return ""
    limit = max(abs(interval.low), abs(interval.high)) * 1.25 or 1.0
    return interval_bar(interval.value, interval.low, interval.high, limit=limit)


def _pictures(validation: Validation, bundle: Bundle, settings: ValidationSettings) -> str:
    cards = [
        *_ranked(validation),
        *_calibration(validation),
        *_answers(validation, bundle, settings),
        *_residuals(validation),
    ]
    return f'<h2>Pictures</h2><div class="grid">{"".join(cards)}</div>'


def _ranked(validation: Validation) -> list[str]:
    pictures = validation.pictures
    if not pictures.roc:
        return []
    share = sum(pictures.confusion[1]) / max(validation.holdout.num_rows, 1)
    guess = Line("chance", "guessing", (0, 1), (0, 1))
    roc = plots.line_plot(
        [*_lines(validation, pictures.roc, metric="roc_auc"), guess],
        title="ROC curve",
        x_label="false positive rate",
        y_label="true positive rate",
    )
    guess = Line("chance", "guessing", (0, 1), (share, share))
    curve = plots.line_plot(
        [*_lines(validation, pictures.precision_recall, metric="pr_auc"), guess],
        title="precision and recall",
        x_label="recall",
        y_label="precision",
    )
    return [
        figure("ROC curve", "How many positives are found for how many false alarms, and the area below.", roc),
        figure(
            "Precision and recall", f"{share:.3g} of the rows are positive; average precision in the legend.", curve
        ),
    ]


def _lines(validation: Validation, curves: Sequence[Curve], *, metric: str) -> list[Line]:
    lines: list[Line] = []
    for curve in curves:
        model = validation.models[curve.model]
        if model.role is Role.DUMMY and validation.kind is not Kind.REGRESSION:
            continue
        value = next((one.interval.value for one in model.metrics if one.metric.name == metric), None)
        digits = ".3g" if validation.kind is Kind.REGRESSION else ".3f"
        label = _LEGENDS[model.role] + ("" if value is None else f" {value:{digits}}")
        lines.append(Line(model.role, label, curve.x, curve.y))
    return lines


def _answers(validation: Validation, bundle: Bundle, settings: ValidationSettings) -> list[str]:
    """Scores and labels, of each target where there are several."""
    output, pictures, kind = bundle.schema.output, validation.pictures, validation.kind
    if kind is Kind.CLUSTERING:
        return _clusters(pictures, num_rows=validation.holdout.num_rows)
    if kind is not Kind.SEVERAL:
        names = [str(label) for label in output.classes] or ["inlier", "outlier"]
        return [*_scores(pictures, kind, names), *_labels(pictures, kind, names, settings)]
    cards: list[str] = []
    for target, classes, part in zip(output.targets, output.target_classes, pictures.by_target, strict=True):
        names, of = [str(label) for label in classes], f" of {target}"
        cards += _scores(part, Kind.MULTICLASS, names, of=of)
        cards += _labels(part, Kind.MULTICLASS, names, settings, of=of)
    return cards


def _clusters(pictures: Pictures, *, num_rows: int) -> list[str]:
    plot = plots.histogram_plot(pictures.scores, x_label="silhouette", css=("candidate",))
    caption = "Towards 1: in the middle of a cluster far from all others; below 0: nearer to another one."
    rows = "".join(
        f'<tr><td>{number}</td><td class="number">{size:,}</td><td class="number">{size / num_rows:.1%}</td></tr>'
        for number, size in pictures.clusters
    )
    sizes = table(("cluster", "rows", "share"), rows)
    return [figure("Silhouettes", caption, plot), figure("Clusters", "The largest of them.", sizes)]


def _scores(pictures: Pictures, kind: Kind, names: Sequence[str], *, of: str = "") -> list[str]:
    if not pictures.scores:
        return []
    labels = ("wrong", "right") if kind is Kind.MULTICLASS else ("negative", "positive")
    x_label = "abnormality"
    if kind is Kind.MULTICLASS:
        x_label = "probability of the label given"
    elif kind is Kind.BINARY:
        x_label = f"probability of {names[1]}"
    plot = plots.histogram_plot(pictures.scores, x_label=x_label, css=("muted", "candidate"))
    return [figure(f"Scores{of}", f"Of {labels[0]} and {labels[1]} rows, each as shares of its own.", plot)]


def _labels(
    pictures: Pictures, kind: Kind, names: Sequence[str], settings: ValidationSettings, *, of: str = ""
) -> list[str]:
    cards: list[str] = []
    if pictures.thresholds:
        points = pictures.thresholds
        known = [one for one in points if one.precision is not None]
        lines = [
            Line("candidate", "precision", [one.threshold for one in known], [one.precision or 0.0 for one in known]),
            Line("champion", "recall", [one.threshold for one in points], [one.recall for one in points]),
            Line("chance", "share called positive", [one.threshold for one in points], [one.share for one in points]),
        ]
        plot = plots.line_plot(lines, title="thresholds", x_label="threshold", y_label="share")
        cards.append(figure("Thresholds", "What calling rows positive from a probability on would give.", plot))
    if pictures.confusion:
        plot = plots.confusion_plot(pictures.confusion, names)
        caption = "Rows by truth and label given; shaded by share of the true class."
        cards.append(figure(f"Confusion matrix{of}", caption, plot))
        if kind is Kind.MULTICLASS:
            plot = plots.class_plot(plots.class_rows(pictures.confusion, names, confidence=settings.confidence))
            cards.append(
                figure(f"Per class{of}", "Recall: how many are found. Precision: how many labels are right.", plot)
            )
    return cards


def _residuals(validation: Validation) -> list[str]:
    pictures = validation.pictures
    if not pictures.points:
        return []
    lines = _lines(validation, pictures.tolerance, metric="median_ae")
    end = max(curve.x[round(0.98 * (len(curve.x) - 1))] for curve in pictures.tolerance) or 1.0
    lines = [_until(line, end) for line in lines]
    tolerance = plots.line_plot(
        lines, title="error tolerance", x_label="absolute error at most", y_label="share of rows", x_end=end
    )
    histogram = plots.histogram_plot(pictures.residuals, x_label="truth minus prediction", css=("candidate",))
    several = " of the first target" if len(validation.holdout.targets) > 1 else ""
    return [
        figure("Truth and prediction", f"Some of the rows{several}.", plots.scatter_plot(pictures.points)),
        figure("Error tolerance", "How many rows are right to within an error; the median in the legend.", tolerance),
        figure("Residuals by prediction", "Quantiles in bins of equal size.", plots.residual_plot(pictures.bands)),
        figure("Residuals", "The outermost 0.2 % are in the outermost bars.", histogram),
    ]


def _until(line: Line, end: float) -> Line:
    inside = [(x, y) for x, y in zip(line.x, line.y, strict=True) if x <= end]
    return Line(line.css, line.label, [x for x, _ in inside], [y for _, y in inside])


def _calibration(validation: Validation) -> list[str]:
    mine = validation.models[0].calibration
    if mine is None:
        return []
    champion = validation.model(Role.CHAMPION)
    plot = plots.calibration_plot(mine, None if champion is None else champion.calibration)
    caption = (
        f"Expected calibration error {mine.ece:.4f} (by chance up to {mine.ece_noise:.4f}); Spiegelhalter z "
        f"{mine.spiegelhalter_z:+.2f}, p = {p_text(mine.spiegelhalter_p)}."
    )
    return [figure("Calibration", caption, plot)]


def _slices(validation: Validation) -> str:
    report = validation.slices
    if not report.slices:
        return ""
    caption = (
        f"The worst of {len(report.slices)} slices with at least {report.min_rows} rows, each against all other rows; "
        f"intervals hold for all of them together, red is surely worse. The dashed line is the whole holdout."
        + (f" {report.num_small} smaller ones are left out." if report.num_small else "")
    )
    return f"<h2>Slices</h2>{figure('', caption, plots.slice_plot(report))}"


def _drift(validation: Validation, settings: ValidationSettings) -> str:
    if validation.drift is None:
        return ""
    caption = (
        "How far the holdout is from the rows the model was trained on. The black tick is what chance alone stays "
        "under in 99 of 100 holdouts, all fields together."
    )
    bars = figure("", caption, plots.drift_plot(validation.drift, limit=settings.psi_at_most))
    worst = sorted(validation.drift, key=lambda one: one.noise - one.psi)[:_DRIFTED_SHOWN]
    details = "".join(figure(one.name, f"PSI {one.psi:.3f}", plots.bins_plot(one)) for one in worst)
    return f'<h2>Drift from training</h2>{bars}<div class="grid" style="margin-top:14px">{details}</div>'


def _card(validation: Validation, bundle: Bundle) -> str:
    manifest, holdout = bundle.manifest, validation.holdout
    changes = "; ".join(
        f"{change.where} {change.what}{' (breaks callers)' if change.breaks else ''}"
        for change in validation.schema_changes
    )
    left_out = (
        f"{holdout.num_rejected:,} break the schema, {holdout.num_champion_rejected:,} only the champion's, "
        f"{holdout.num_unlabelled:,} have no label"
    )
    facts = [
        ("description", manifest.description or "not stated"),
        ("task", f"{bundle.schema.output.task}, engine {manifest.engine}"),
        ("packaged", f"{manifest.created}, source {manifest.source_revision or 'unknown'}"),
        ("bundle", f"sha256 {bundle.sha256}, {validation.bundle_bytes / 1e6:.3g} MB"),
        ("holdout", f"sha256 {holdout.data.sha256}, {holdout.data.num_files} file(s)"),
        ("truth", ", ".join(holdout.targets) or "none"),
        ("rows left out", left_out),
        ("schema, from the champion's", changes or "no change"),
    ]  # fmt: skip
    rows = "".join(f"<tr><td>{text(name)}</td><td>{text(value)}</td></tr>" for name, value in facts)
    fields = "".join(
        f"<tr><td><code>{text(field.name)}</code></td><td>{field.dtype}</td>"
        f"<td>{'yes' if field.required else 'no'}</td>"
        f"<td>{text(domain(field))}</td><td>{text(field.description)}</td></tr>"
        for field in bundle.schema.fields
    )
    return (
        f'<h2>Model card</h2><div class="card wide key"><table>{rows}</table></div>'
        f'<div style="margin-top:14px">{table(("field", "type", "required", "domain", "description"), fields)}</div>'
    )


def _notes(validation: Validation, settings: ValidationSettings) -> str:
    how = (
        "percentile bootstrap over rows"
        if validation.num_shards == 1
        else f"bag of little bootstraps over {validation.num_shards} random shards of the rows"
    )
    machine = text(validation.latency.machine)
    return (
        f'<p class="note">Intervals are two-sided at {settings.confidence:.0%}: {how}, {settings.replicates:,} '
        f"resampled tables, seed {settings.seed}; every model meets the same resampled rows. “Surely” means that the "
        f"interval says so. Latency: {validation.latency.num_calls:,} calls of one row, JSON decoding included, "
        f"on {machine}.</p>"
    )
