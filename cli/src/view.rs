//! Tables: columns are data, a cell knows its text and its sort key. A size sorts as a number and a device name as
//! people read it (`nvme2n1` before `nvme10n1`).

use api::{Bytes, Nanos};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::advice::Stop;
use crate::screen::{Screen, Tone};

/// What `-o` may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// All columns.
    Wide,
    /// The objects, as one List.
    Json,
    /// The objects, as one List.
    Yaml,
    /// One `kind/name` a line.
    Name,
}

/// How a result is shown.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Output {
    /// How to print: table, wide, json, yaml or name
    #[arg(
        short,
        long,
        value_enum,
        default_value = "table",
        value_name = "FORMAT",
        hide_possible_values = true,
        hide_default_value = true
    )]
    pub(crate) output: Format,
    /// Leave out the line of titles
    #[arg(long)]
    pub(crate) no_headers: bool,
    /// Sort by this column; with a minus before it, largest first
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    pub(crate) sort_by: Option<String>,
}

/// How a result that is no table is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shape {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For programs.
    Yaml,
}

/// `-o` of a result that is no table.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Shaped {
    /// How to print: table, json or yaml
    #[arg(
        short,
        long = "output",
        value_enum,
        default_value = "table",
        value_name = "FORMAT",
        hide_possible_values = true,
        hide_default_value = true
    )]
    output: Shape,
}

impl Shaped {
    /// Whether it is for people.
    pub(crate) fn is_table(self) -> bool {
        self.output == Shape::Table
    }

    /// Prints a value for programs; for people nothing, as they are told in words.
    pub(crate) fn print(self, screen: &mut Screen, value: &Value) -> Result<(), Stop> {
        match self.output {
            Shape::Table => {}
            Shape::Json => screen.line(serde_json::to_string_pretty(value)?)?,
            Shape::Yaml => screen.line(yaml(value)?.trim_end())?,
        }
        Ok(())
    }
}

/// Objects as one List, as kubectl prints them.
pub(crate) fn list<K: Serialize>(
    objects: impl IntoIterator<Item = K>,
) -> Result<Value, serde_json::Error> {
    let items = objects.into_iter().map(serde_json::to_value);
    Ok(list_value(items.collect::<Result<_, _>>()?))
}

fn list_value(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    key: Key,
    tone: Tone,
}

/// What a cell sorts by. An empty cell comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// Nothing there.
    Empty,
    /// A number.
    Number(u64),
    /// A text, its digits read as numbers.
    Text(Vec<Part>),
}

/// A run of digits, or of other characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// Digits.
    Number(u64),
    /// Anything else.
    Word(String),
}

/// The sort key of a text as people read it.
pub(crate) fn natural(text: &str) -> Key {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let digits = first.is_ascii_digit();
        let end = rest
            .find(|c: char| c.is_ascii_digit() != digits)
            .unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        parts.push(match run.parse() {
            Ok(number) if digits => Part::Number(number),
            _ => Part::Word(run.to_owned()),
        });
        rest = after;
    }
    Key::Text(parts)
}

impl Cell {
    /// A text; a dash where it is empty.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        if text.is_empty() {
            return Self::none();
        }
        Self {
            key: natural(&text),
            text,
            tone: Tone::Plain,
        }
    }

    /// Nothing.
    pub(crate) fn none() -> Self {
        Self {
            text: "-".to_owned(),
            key: Key::Empty,
            tone: Tone::Plain,
        }
    }

    fn number(text: String, key: u64) -> Self {
        Self {
            text,
            key: Key::Number(key),
            tone: Tone::Plain,
        }
    }

    /// A size.
    pub(crate) fn bytes(bytes: Option<u64>) -> Self {
        bytes.map_or_else(Self::none, |b| Self::number(Bytes(b).to_string(), b))
    }

    /// A duration of an operation.
    pub(crate) fn nanos(nanos: Option<u64>) -> Self {
        nanos.map_or_else(Self::none, |n| Self::number(Nanos(n).to_string(), n))
    }

    /// A count.
    pub(crate) fn count(count: usize) -> Self {
        Self::number(count.to_string(), u64::try_from(count).unwrap_or(u64::MAX))
    }

    /// How long ago `then` was.
    pub(crate) fn age(then: Option<Timestamp>, now: Timestamp) -> Self {
        then.map_or_else(Self::none, |then| {
            let seconds = seconds_between(then, now);
            Self::number(age(seconds), seconds)
        })
    }

    /// The same in a tone.
    pub(crate) fn toned(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }
}

/// Whole seconds from `then` to `now`; 0 where clocks disagree.
pub(crate) fn seconds_between(then: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.as_second().saturating_sub(then.as_second())).unwrap_or(0)
}

/// So many of what a word names: `1 volume`, `2 volumes`.
pub(crate) fn counted(count: usize, word: &str) -> String {
    match count {
        1 => format!("1 {word}"),
        _ => format!("{count} {word}s"),
    }
}

/// A span of time as people say it: `45s`, `12m`, `5h`, `9d`.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// One column of rows `R`.
pub(crate) struct Column<R> {
    title: &'static str,
    wide: bool,
    cell: fn(&R) -> Cell,
}

/// A column that is always shown.
pub(crate) const fn column<R>(title: &'static str, cell: fn(&R) -> Cell) -> Column<R> {
    Column {
        title,
        wide: false,
        cell,
    }
}

/// A column of `-o wide`.
pub(crate) const fn wide<R>(title: &'static str, cell: fn(&R) -> Cell) -> Column<R> {
    Column {
        title,
        wide: true,
        cell,
    }
}

/// What `-o json`, `yaml` and `name` need of a row.
pub(crate) trait Row {
    /// The object behind it.
    fn object(&self) -> Result<Value, serde_json::Error>;
    /// `kind/name`.
    fn name(&self) -> String;
}

/// Prints rows in the order asked for.
pub(crate) fn print<R: Row>(
    screen: &mut Screen,
    columns: &[Column<R>],
    rows: &mut [R],
    output: &Output,
) -> Result<(), Stop> {
    sort(columns, rows, output.sort_by.as_deref())?;
    match output.output {
        Format::Table => table(screen, &shown(columns, false), rows, output.no_headers)?,
        Format::Wide => table(screen, &shown(columns, true), rows, output.no_headers)?,
        Format::Json => {
            let list = list_of(rows)?;
            screen.line(serde_json::to_string_pretty(&list)?)?;
        }
        Format::Yaml => {
            let text = yaml(&list_of(rows)?)?;
            screen.line(text.trim_end())?;
        }
        Format::Name => {
            for row in rows.iter() {
                screen.line(row.name())?;
            }
        }
    }
    Ok(())
}

/// YAML of a value.
pub(crate) fn yaml(value: &Value) -> Result<String, Stop> {
    serde_yaml::to_string(value)
        .map_err(|e| Stop::Failed(anyhow::Error::from(e).context("cannot write YAML")))
}

fn list_of<R: Row>(rows: &[R]) -> Result<Value, Stop> {
    let items = rows
        .iter()
        .map(Row::object)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(list_value(items))
}

fn shown<R>(columns: &[Column<R>], all: bool) -> Vec<&Column<R>> {
    columns.iter().filter(|c| all || !c.wide).collect()
}

/// Sorts by the column asked for, else leaves the order of the fetch.
fn sort<R>(columns: &[Column<R>], rows: &mut [R], by: Option<&str>) -> Result<(), Stop> {
    let Some(by) = by else { return Ok(()) };
    let (title, reverse) = by.strip_prefix('-').map_or((by, false), |t| (t, true));
    let Some(column) = columns.iter().find(|c| c.title.eq_ignore_ascii_case(title)) else {
        let titles: Vec<_> = columns.iter().map(|c| c.title.to_lowercase()).collect();
        return Err(Stop::Usage(format!(
            "--sort-by {title}: there is no such column; it is one of {}",
            titles.join(", ")
        )));
    };
    rows.sort_by_cached_key(|row| (column.cell)(row).key);
    if reverse {
        rows.reverse();
    }
    Ok(())
}

const GAP: &str = "   ";

/// Prints aligned columns; numbers to the right.
pub(crate) fn table<R>(
    screen: &mut Screen,
    columns: &[&Column<R>],
    rows: &[R],
    no_headers: bool,
) -> Result<(), Stop> {
    if rows.is_empty() {
        return Ok(());
    }
    let cells: Vec<Vec<Cell>> = rows
        .iter()
        .map(|row| columns.iter().map(|c| (c.cell)(row)).collect())
        .collect();
    let mut layout = Vec::new();
    for (index, column) in columns.iter().enumerate() {
        let here = || cells.iter().filter_map(move |line| line.get(index));
        let width = here().map(|c| c.text.chars().count()).max().unwrap_or(0);
        let mut numbers = here().filter(|c| c.key != Key::Empty).peekable();
        let right = numbers.peek().is_some() && numbers.all(|c| matches!(c.key, Key::Number(_)));
        let title = if no_headers {
            0
        } else {
            column.title.chars().count()
        };
        layout.push((width.max(title), right));
    }
    if !no_headers {
        let titles: Vec<_> = columns
            .iter()
            .map(|c| Cell::text(c.title).toned(Tone::Bold))
            .collect();
        let line = aligned(screen, &layout, &titles);
        screen.line(line)?;
    }
    for line in &cells {
        let line = aligned(screen, &layout, line);
        screen.line(line)?;
    }
    Ok(())
}

fn aligned(screen: &Screen, layout: &[(usize, bool)], cells: &[Cell]) -> String {
    let mut line = String::new();
    for (index, (cell, (width, right))) in cells.iter().zip(layout).enumerate() {
        if index > 0 {
            line.push_str(GAP);
        }
        let pad = " ".repeat(width.saturating_sub(cell.text.chars().count()));
        let text = screen.paint(cell.tone, &cell.text);
        if *right {
            line.push_str(&pad);
            line.push_str(&text);
        } else {
            line.push_str(&text);
            if index + 1 < cells.len() {
                line.push_str(&pad);
            }
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_people_read_them() {
        let mut names = [
            "nvme10n1", "nvme2n1", "loop9", "nvme2n10", "node-2", "node-10",
        ];
        names.sort_by_cached_key(|n| natural(n));
        assert_eq!(
            names,
            [
                "loop9", "node-2", "node-10", "nvme2n1", "nvme2n10", "nvme10n1"
            ]
        );
        // A number too long for 64 bits is a word, not a panic.
        assert!(matches!(natural("99999999999999999999999"), Key::Text(_)));
    }

    #[test]
    fn sizes_sort_as_numbers() {
        let columns = [column("SIZE", |b: &u64| Cell::bytes(Some(*b)))];
        let mut rows = [1 << 40, 5 << 30, 512, 9 << 20];
        sort(&columns, &mut rows, Some("size")).unwrap();
        assert_eq!(rows, [512, 9 << 20, 5 << 30, 1 << 40]);
        sort(&columns, &mut rows, Some("-size")).unwrap();
        assert_eq!(rows, [1 << 40, 5 << 30, 9 << 20, 512]);
        let Err(Stop::Usage(message)) = sort(&columns, &mut rows, Some("colour")) else {
            panic!("an unknown column is wrong usage");
        };
        assert!(message.contains("one of size"), "{message}");
    }

    #[test]
    fn ages() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7_200, "2h"),
            (172_800, "2d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }
}
