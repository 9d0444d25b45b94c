//! The source tree as text: what the rules of the house are read off.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders that are no part of the tree.
const OUTSIDE: [&str; 3] = [".git", "target", "scratch"];

/// The top of the source tree.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default()
}

/// Every text file of the tree, by its path from the top.
#[derive(Debug)]
pub struct Tree(BTreeMap<String, String>);

impl Tree {
    /// Reads it.
    ///
    /// # Panics
    /// When the tree cannot be read.
    #[must_use]
    pub fn read() -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![root()];
        while let Some(folder) = folders.pop() {
            let entries =
                fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
            for entry in entries.flatten() {
                let path = entry.path();
                let Ok(kind) = entry.file_type() else {
                    continue;
                };
                if kind.is_dir() && !OUTSIDE.iter().any(|name| entry.file_name() == *name) {
                    folders.push(path);
                } else if kind.is_file()
                    && let Ok(text) = fs::read_to_string(&path)
                    && let Ok(path) = path.strip_prefix(root())
                {
                    files.insert(path.to_string_lossy().into_owned(), text);
                }
            }
        }
        files.remove(".git"); // a worktree's is a file
        Self(files)
    }

    /// All files.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// All paths.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Rust files.
    pub fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.all().filter(|(path, _)| path.ends_with(".rs"))
    }

    /// Rust files, scripts and programs: what a person wrote as code.
    pub fn code(&self) -> impl Iterator<Item = (&str, &str)> {
        self.all().filter(|(path, text)| {
            Path::new(path)
                .extension()
                .is_some_and(|e| e == "rs" || e == "py" || e == "proto")
                || text.starts_with("#!/")
        })
    }

    /// The text of a file; empty when there is none.
    #[must_use]
    pub fn text(&self, path: &str) -> &str {
        self.0.get(path).map_or("", String::as_str)
    }

    /// Whether a file or folder is there.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        root().join(path).exists()
    }

    /// Whether a file may be executed.
    #[must_use]
    pub fn executable(&self, path: &str) -> bool {
        use std::os::unix::fs::PermissionsExt as _;
        fs::metadata(root().join(path)).is_ok_and(|m| m.permissions().mode() & 0o111 != 0)
    }
}

/// The lines of a Rust file without comments, and with the content of string literals that end on their line left
/// out; with their numbers.
pub fn rust_code(text: &str) -> impl Iterator<Item = (usize, String)> {
    text.lines().enumerate().map(|(index, line)| {
        let mut code = String::new();
        let mut quoted = false;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if quoted => {
                    chars.next();
                }
                '"' => quoted = !quoted,
                '/' if !quoted && chars.peek() == Some(&'/') => break,
                _ if !quoted => code.push(c),
                _ => {}
            }
        }
        (index + 1, code)
    })
}

/// The crates of the workspace, each with the names of everything it depends on, in any section.
///
/// # Panics
/// When the workspace has no list of members.
#[must_use]
pub fn crates() -> Vec<(String, Vec<String>)> {
    let top = fs::read_to_string(root().join("Cargo.toml")).unwrap_or_default();
    let members = top
        .lines()
        .find_map(|line| line.strip_prefix("members = "))
        .expect("the workspace lists its members on one line");
    members
        .split('"')
        .skip(1)
        .step_by(2)
        .map(|member| {
            let manifest =
                fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap_or_default();
            (member.to_owned(), dependencies(&manifest))
        })
        .collect()
}

fn dependencies(manifest: &str) -> Vec<String> {
    let mut section = "";
    let mut names = Vec::new();
    for line in manifest.lines() {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
        } else if section.ends_with("dependencies")
            && let Some((name, _)) = line.split_once('=')
        {
            names.push(name.trim().trim_end_matches(".workspace").to_owned());
        }
    }
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_all_sections() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = { workspace = true }\n\
                        [target.'cfg(unix)'.dependencies]\nc = \"1\"\n[lints]\nworkspace = true\n[dev-dependencies]\na = \"1\"\n";
        assert_eq!(dependencies(manifest), ["a", "b", "c"]);
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        let text = "let a = \"unsafe \\\" unsafe\"; // unsafe\n/// unsafe\nfoo(\"x\", y)";
        let code: Vec<String> = rust_code(text).map(|(_, line)| line).collect();
        assert_eq!(code, ["let a = ; ", "", "foo(, y)"]);
    }
}
