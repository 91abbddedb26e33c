"""The fleet's figure as SVG: completion time against the number of machines, whole and near the bound. Knows no measuring."""

WIDTH, HEIGHT = 980, 460
TOP, BOTTOM = 96, 392
PANELS = ((66, 440), (560, 850))
INK, SOFT, GRID = "#1b1f24", "#57606a", "#e4e7eb"
COLOURS = {"keyed": "#0b5fa5", "open": "#2e8b57", "http": "#c2571a", "bound": "#1b1f24", "server": "#c2571a"}


class Axes:
    """One panel: from values to places on the page."""

    def __init__(self, left, right, across, most):
        self.left, self.right, self.across = left, right, across
        self.step = step(most)
        self.most = self.step * -(-most // self.step)

    def x(self, count):
        return self.left + (self.right - self.left) * count / self.across

    def y(self, seconds):
        return BOTTOM - (BOTTOM - TOP) * seconds / self.most

    def frame(self, counts, title):
        parts = [text(self.left, TOP - 14, title, size=13, weight=600)]
        value = 0
        while value <= self.most + 1e-9:
            y = self.y(value)
            parts.append(f'<line x1="{self.left}" y1="{y:.1f}" x2="{self.right}" y2="{y:.1f}" stroke="{SOFT if value == 0 else GRID}"/>')
            parts.append(text(self.left - 8, y + 4, f"{value:g}", "end", SOFT))
            value += self.step
        shown = None
        for count in counts:
            parts.append(f'<line x1="{self.x(count):.1f}" y1="{BOTTOM}" x2="{self.x(count):.1f}" y2="{BOTTOM + 5}" stroke="{SOFT}"/>')
            if shown is None or self.x(count) - shown > 14:
                shown = self.x(count)
                parts.append(text(shown, BOTTOM + 20, str(count), "middle", SOFT))
        middle, half = (self.left + self.right) / 2, (TOP + BOTTOM) / 2
        parts.append(text(middle, BOTTOM + 42, "machines that take the image", "middle", SOFT))
        parts.append(f'<text transform="translate({self.left - 44} {half}) rotate(-90)" text-anchor="middle" fill="{SOFT}">seconds</text>')
        return parts

    def curve(self, points, colour, dashed=None, width=2.0):
        path = " ".join(f"{'ML'[n > 0]}{self.x(c):.1f} {self.y(s):.1f}" for n, (c, s) in enumerate(points) if s <= self.most + 1e-9)
        dash = f' stroke-dasharray="{dashed}"' if dashed else ""
        return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>'

    def dots(self, points, colour, filled):
        fill = colour if filled else "#ffffff"
        return "".join(f'<circle cx="{self.x(c):.1f}" cy="{self.y(s):.1f}" r="3.6" fill="{fill}" stroke="{colour}" stroke-width="1.6">'
                       f"<title>{c} machines: {s:.1f} s</title></circle>" for c, s in points if s <= self.most + 1e-9)


def fleet(counts, lines, theory, mebibytes, megabits):
    """`lines`: (key, name, {"median", "last": [(machines, seconds)]}); `theory`: {"bound", "server": the same}."""
    slowest = max(s for _, _, p in lines for _, s in p["last"])
    ours = [s for key, _, p in lines if key != "http" for _, s in p["last"]] or [slowest]
    across = counts[-1] * 1.04
    whole = Axes(*PANELS[0], across, max(slowest, theory["server"][-1][1]))
    near = Axes(*PANELS[1], across, max(*ours, theory["bound"][-1][1] * 1.25) * 1.02)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="12" fill="{INK}" role="img" aria-label="completion time against machines">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        text(20, 28, f"{mebibytes} MiB to a whole fleet over links of {megabits:g} Mbit/s", size=17, weight=600),
        legend(),
        *whole.frame(counts, "All three ways"), *near.frame(counts, "The same, near the bound"),
    ]
    labels = []
    for axes in (whole, near):
        parts.append(axes.curve(theory["server"], COLOURS["server"], "2 4", 1.4))
        parts.append(axes.curve(theory["bound"], COLOURS["bound"], "6 4", 1.4))
        for key, _, points in lines:
            if key == "http" and axes is near:
                continue
            parts.append(axes.curve(points["median"], COLOURS[key], None, 1.0))
            parts.append(axes.curve(points["last"], COLOURS[key]))
            parts += [axes.dots(points["median"], COLOURS[key], False), axes.dots(points["last"], COLOURS[key], True)]
    parts.append(near.curve([(0, 1.25 * theory["bound"][-1][1]), (counts[-1], 1.25 * theory["bound"][-1][1])], SOFT, "1 3", 1))
    labels.append((near.y(1.25 * theory["bound"][-1][1]), "1.25 × the bound", SOFT))
    labels.append((near.y(theory["bound"][-1][1]), "bound", COLOURS["bound"]))
    labels += [(near.y(p["last"][-1][1]), name, COLOURS[key]) for key, name, p in lines if key != "http"]
    parts += apart(labels, near.right + 8)
    parts += apart([(whole.y(p["last"][-1][1]), name, COLOURS[key]) for key, name, p in lines if key == "http"]
                   + [(whole.y(max(ours)), "dhtget", COLOURS["keyed"])], whole.right + 6)
    return "\n".join([*parts, "</svg>", ""])


def legend():
    """What the marks mean; the colours are told beside the curves."""
    x, y, parts = 22, 52, []
    marks = (
        (f'<circle cx="{{x}}" cy="{{y}}" r="3.6" fill="{SOFT}" stroke="{SOFT}"/>', "last machine", 110),
        (f'<circle cx="{{x}}" cy="{{y}}" r="3.6" fill="#ffffff" stroke="{SOFT}" stroke-width="1.6"/>', "median machine", 126),
        (f'<path d="M{{x}} {{y}} h22" stroke="{COLOURS["bound"]}" stroke-dasharray="6 4"/>', "bound: max(F/us, F/dmin, N·F/(us+Σui))", 282),
        (f'<path d="M{{x}} {{y}} h22" stroke="{COLOURS["server"]}" stroke-dasharray="2 4"/>', "one server's bound: N·F/us", 0),
    )
    for mark, name, room in marks:
        line = "h22" in mark
        parts += [mark.format(x=x, y=y), text(x + (30 if line else 10), y + 4, name, colour=SOFT)]
        x += room
    return "".join(parts)


def apart(labels, x):
    """Labels beside their curves, moved so that none lies on another."""
    parts, floor = [], -1e9
    for y, name, colour in sorted(labels):
        floor = max(y, floor + 15)
        parts.append(text(x, floor + 4, name, colour=colour))
    return parts


def text(x, y, words, anchor="start", colour=INK, size=12, weight=400):
    words = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}" font-weight="{weight}">{words}</text>'


def step(most):
    """A round distance between grid lines, four to eight of them."""
    size = 10 ** (len(str(int(most))) - 1)
    return next(size * part for part in (0.2, 0.25, 0.5, 1, 2) if most / (size * part) <= 7)
