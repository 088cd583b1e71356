//! Charts as SVG: lines over an axis, and bars. Nothing outside of the text is needed to see them.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
/// Room for labels at the left, and below.
const LEFT: f64 = 80.0;
const BELOW: f64 = 40.0;
const ABOVE: f64 = 12.0;
/// Of lines and bars, in turn (Okabe and Ito: told apart by everyone).
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
];

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    /// From 0 to what holds all values.
    pub(super) fn linear(values: impl Iterator<Item = f64>) -> Self {
        let high = values.fold(0.0, f64::max);
        Self {
            low: 0.0,
            high: if high > 0.0 { high * 1.05 } else { 1.0 },
            logarithmic: false,
        }
    }

    /// Powers of ten that hold all values above 0.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64> + Clone) -> Self {
        let positive = values.filter(|&value| value > 0.0);
        let low = positive.clone().fold(f64::INFINITY, f64::min).min(1e9);
        let high = positive.fold(0.0, f64::max).max(low);
        Self {
            low: 10_f64.powf(low.log10().floor()),
            high: 10_f64.powf((high * 1.01).log10().ceil()),
            logarithmic: true,
        }
    }

    /// From 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        share.clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.logarithmic {
            return (0..=4)
                .map(|part| self.high * f64::from(part) / 4.0)
                .collect();
        }
        let mut ticks = vec![self.low];
        // At most from a nanosecond to a minute.
        while ticks.len() < 16 && ticks.last().is_some_and(|&last| last * 1.01 < self.high) {
            ticks.push(ticks[ticks.len() - 1] * 10.0);
        }
        ticks
    }
}

/// A named line of points.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// Lines over an axis whose places have names.
pub(super) fn lines(
    lines: &[Line],
    x_ticks: &[(f64, String)],
    x_title: &str,
    y_title: &str,
    y: Scale,
) -> String {
    let x_max = x_ticks.iter().map(|(at, _)| *at).fold(1e-9, f64::max);
    let x_place = |at: f64| LEFT + at / x_max * (WIDTH - LEFT - 10.0);
    let mut svg = frame(y, y_title);
    for (at, label) in x_ticks {
        text(
            &mut svg,
            x_place(*at),
            HEIGHT - BELOW + 16.0,
            "middle",
            label,
        );
    }
    text(&mut svg, WIDTH / 2.0, HEIGHT - 6.0, "middle", x_title);
    for (number, line) in lines.iter().enumerate() {
        let points = line.points.iter();
        let points =
            points.map(|&(at, value)| format!("{:.1},{:.1}", x_place(at), height(y, value)));
        put(
            &mut svg,
            format_args!(
                "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\" points=\"{}\">\
                 <title>{}</title></polyline>\n",
                colour(number),
                points.collect::<Vec<_>>().join(" "),
                escape(&line.name),
            ),
        );
    }
    svg.push_str("</svg>\n");
    svg + &legend(lines.iter().map(|line| line.name.as_str()))
}

/// One bar's name, its value, and the lowest and highest of what it is the median of.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) spread: (f64, f64),
}

/// Bars with their spread.
pub(super) fn bars(bars: &[Bar], y_title: &str) -> String {
    let y = Scale::linear(bars.iter().flat_map(|bar| [bar.value, bar.spread.1]));
    let step = (WIDTH - LEFT - 10.0) / bars.len().max(1) as f64;
    let mut svg = frame(y, y_title);
    for (number, bar) in bars.iter().enumerate() {
        let left = LEFT + step * (number as f64 + 0.15);
        let (top, bottom) = (height(y, bar.value), height(y, 0.0));
        let (low, high) = (height(y, bar.spread.0), height(y, bar.spread.1));
        let middle = left + step * 0.35;
        put(
            &mut svg,
            format_args!(
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\">\
                 <title>{}: {} ({} to {})</title></rect>\n\
                 <path d=\"M{middle:.1} {low:.1}V{high:.1}\" stroke=\"#333\" stroke-width=\"1.5\"/>\n",
                step * 0.7,
                (bottom - top).max(0.0),
                colour(number),
                escape(&bar.name),
                short(bar.value),
                short(bar.spread.0),
                short(bar.spread.1),
            ),
        );
        text(
            &mut svg,
            middle,
            top.min(high) - 4.0,
            "middle",
            &short(bar.value),
        );
    }
    svg.push_str("</svg>\n");
    svg + &legend(bars.iter().map(|bar| bar.name.as_str()))
}

fn frame(y: Scale, title: &str) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
         <text x=\"12\" y=\"{0}\" transform=\"rotate(-90 12 {0})\" text-anchor=\"middle\">{1}</text>\n",
        (HEIGHT - BELOW) / 2.0,
        escape(title),
    );
    for tick in y.ticks() {
        let at = height(y, tick);
        put(
            &mut svg,
            format_args!("<path d=\"M{LEFT} {at:.1}H{WIDTH}\" stroke=\"#ddd\"/>\n"),
        );
        text(&mut svg, LEFT - 6.0, at + 4.0, "end", &short(tick));
    }
    svg
}

fn legend<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let entry = |(number, name)| {
        let colour = colour(number);
        format!(
            "<li><span style=\"background:{colour}\"></span>{}</li>",
            escape(name)
        )
    };
    format!(
        "<ul>{}</ul>\n",
        names.enumerate().map(entry).collect::<String>()
    )
}

fn height(y: Scale, value: f64) -> f64 {
    HEIGHT - BELOW - y.place(value) * (HEIGHT - BELOW - ABOVE)
}

fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    put(
        svg,
        format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
            escape(text)
        ),
    );
}

fn put(svg: &mut String, text: std::fmt::Arguments<'_>) {
    svg.write_fmt(text).expect("writing to memory succeeds");
}

/// For text between tags and in attributes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Thousands as k, millions as M.
pub(super) fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, "G"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = if value.abs() < 10.0 {
        2
    } else {
        usize::from(value.abs() < 100.0)
    };
    let number = format!("{value:.digits$}");
    let number = if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        &number
    };
    format!("{number}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_right() {
        let table = [
            (0.0, "0"),
            (0.25, "0.25"),
            (100.0, "100"),
            (1_500.0, "1.5k"),
            (250_000.0, "250k"),
            (2_510_000.0, "2.51M"),
        ];
        for (value, expected) in table {
            assert_eq!(short(value), expected);
        }
    }

    #[test]
    fn a_logarithmic_scale_ends_at_powers_of_ten() {
        let scale = Scale::logarithmic([30.0, 0.0, 4_000.0].into_iter());
        assert_eq!(scale.ticks(), [10.0, 100.0, 1_000.0, 10_000.0]);
        assert_eq!(scale.place(10.0), 0.0);
        assert!((scale.place(100.0) - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(scale.place(0.0), 0.0);
    }
}
