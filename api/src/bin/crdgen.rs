//! Prints the custom resource definitions as YAML, as committed in `deploy/crds.yaml`.

use std::io::Write as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    std::io::stdout().write_all(api::crds_yaml()?.as_bytes())?;
    Ok(())
}
