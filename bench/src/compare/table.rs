//! What came of a comparison, as a table and as JSON. Pure.

use serde_json::{Value, json};

use super::Line;

pub(super) fn as_text(lines: &[Line], rounds: u32) -> String {
    let mut table = vec![
        [
            "what",
            "ours",
            "peer",
            "peer's",
            "ratio",
            "min–max",
            "goal",
            "",
        ]
        .map(str::to_owned),
    ];
    for line in lines {
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
            Err(why) => cells[1] = why.clone(),
        }
        table.push(cells);
    }
    let width = |column: usize| {
        let cells = table.iter().skip(usize::from(column == 1));
        let of = |cells: &[String; 8]| cells.get(column).map_or(0, |cell| cell.chars().count());
        cells
            .map(of)
            .filter(|width| *width < 24 || column != 1)
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..8).map(width).collect();
    let mut text = String::new();
    for cells in &table {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text += padded.join("  ").trim_end();
        text += "\n";
    }
    text += &format!(
        "\nMedians of {rounds} rounds; a ratio is ours over the peer's, of times the peer's over ours.\n"
    );
    text + &contests(lines)
}

/// What was done in each contest.
fn contests(lines: &[Line]) -> String {
    let mut all = Vec::new();
    for line in lines {
        let name = line.name.split('/').next().unwrap_or_default();
        let told = format!("{name}: {}\n", line.what);
        if !all.contains(&told) {
            all.push(told);
        }
    }
    all.concat()
}

pub(super) fn as_json(lines: &[Line], rounds: u32, seed: u64) -> Value {
    let rows: Vec<Value> = lines
        .iter()
        .map(|line| match &line.result {
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
        })
        .collect();
    json!({ "rounds": rounds, "seed": seed, "rows": rows })
}
