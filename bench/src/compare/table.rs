//! What came of a comparison, as a table and as JSON. Pure.

use serde_json::{Value, json};

use super::verdict::{Held, Line};

/// A row of the table; the last is how it ended.
type Cells = [String; 8];

const HEAD: [&str; 8] = [
    "what",
    "ours",
    "peer",
    "peer's",
    "ratio",
    "min–max",
    "goal",
    "",
];

/// `ground` is what was read and written.
pub(super) fn as_text(held: &[Held], rounds: u32, ground: &str) -> String {
    let mut table = vec![HEAD.map(str::to_owned)];
    for held in held {
        match &held.lines {
            Ok(lines) => table.extend(lines.iter().map(cells)),
            Err(why) => {
                let mut cells = Cells::default();
                held.contest.clone_into(&mut cells[0]);
                cells[1] = format!("left out: {why}");
                table.push(cells);
            }
        }
    }
    let mut text = padded(&table);
    text += &format!(
        "\nMedians of {rounds} rounds; a ratio is ours over the peer's, of times the peer's over ours. Read and written were {ground}.\n"
    );
    text + &contests(held)
}

fn cells(line: &Line) -> Cells {
    let mut cells = [
        line.name.clone(),
        String::new(),
        line.peer.to_owned(),
        String::new(),
        String::new(),
        String::new(),
        line.goal.to_string(),
        String::new(),
    ];
    match &line.result {
        Ok(shown) => {
            let ratios = &shown.ratios;
            cells[1] = line.measure.text(shown.ours);
            cells[3] = line.measure.text(shown.peers);
            cells[4] = format!("{:.2}", ratios.median());
            cells[5] = format!("{:.2}–{:.2}", ratios.quantile(0.0), ratios.quantile(1.0));
            cells[7] = ratios.against(line.goal).as_str().to_owned();
        }
        Err(why) => cells[1].clone_from(why),
    }
    cells
}

/// The columns under each other. A sentence in the second, which says why nothing is there, makes it no wider.
fn padded(table: &[Cells]) -> String {
    let width = |column: usize| {
        let cells = table.iter().skip(usize::from(column == 1));
        let of = |cells: &Cells| cells.get(column).map_or(0, |cell| cell.chars().count());
        cells
            .map(of)
            .filter(|width| *width < 24 || column != 1)
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..8).map(width).collect();
    let mut text = String::new();
    for cells in table {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text += padded.join("  ").trim_end();
        text += "\n";
    }
    text
}

/// What was done in each contest.
fn contests(held: &[Held]) -> String {
    let mut all = Vec::new();
    for line in held.iter().flat_map(|held| held.lines.iter().flatten()) {
        let name = line.name.split('/').next().unwrap_or_default();
        let told = format!("{name}: {}\n", line.what);
        if !all.contains(&told) {
            all.push(told);
        }
    }
    all.concat()
}

/// `host` is what [`facts`](super::host::facts) says.
pub(super) fn as_json(held: &[Held], rounds: u32, seed: u64, ground: &str, host: &Value) -> Value {
    let mut rows = Vec::new();
    for held in held {
        match &held.lines {
            Ok(lines) => rows.extend(lines.iter().map(row)),
            Err(why) => rows.push(json!({
                "name": held.contest,
                "outcome": "left out",
                "why": why,
            })),
        }
    }
    json!({ "rounds": rounds, "seed": seed, "ground": ground, "host": host, "rows": rows })
}

fn row(line: &Line) -> Value {
    match &line.result {
        Ok(shown) => json!({
            "name": line.name,
            "what": line.what,
            "peer": line.peer,
            "ours": shown.ours,
            "peers": shown.peers,
            "ratio": {
                "median": shown.ratios.median(),
                "min": shown.ratios.quantile(0.0),
                "max": shown.ratios.quantile(1.0),
                "lowerQuartile": shown.ratios.quantile(0.25),
                "upperQuartile": shown.ratios.quantile(0.75),
            },
            "goal": line.goal.to_string(),
            "outcome": shown.ratios.against(line.goal).as_str(),
        }),
        Err(why) => json!({
            "name": line.name,
            "what": line.what,
            "peer": line.peer,
            "goal": line.goal.to_string(),
            "outcome": "missing",
            "why": why,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::verdict::tests::{left_out, line};
    use super::*;

    fn held() -> [Held; 2] {
        let nop = Held {
            contest: "nop",
            lines: Ok(vec![line(&[1.0, 2.0, 3.0]), line(&[])]),
        };
        [nop, left_out("erase-writes-8")]
    }

    #[test]
    fn a_table_tells_what_was_left_out() {
        let text = as_text(&held(), 7, "files");
        let rows: Vec<&str> = text.lines().collect();
        assert!(rows[0].starts_with("what            ours"), "{text}");
        assert!(rows[1].ends_with("met"), "{text}");
        assert!(
            rows[2].starts_with("nop/cpu         it is not on this machine"),
            "{text}"
        );
        assert_eq!(rows[3], "erase-writes-8  left out: the reason");
        assert_eq!(text.matches("\nnop: no-ops\n").count(), 1, "{text}");
    }

    #[test]
    fn json_tells_of_the_host_and_of_what_was_left_out() {
        let host = json!({ "kernel": "6.18" });
        let told = as_json(&held(), 7, 1, "files", &host);
        assert_eq!(told["host"], host);
        let outcomes: Vec<&Value> = told["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| &row["outcome"])
            .collect();
        assert_eq!(outcomes, ["met", "missing", "left out"]);
        let left_out = json!({
            "name": "erase-writes-8",
            "outcome": "left out",
            "why": "the reason",
        });
        assert_eq!(told["rows"][2], left_out);
    }
}
