//! x
use crate::failure::Result;
/// x
pub fn run(_fix: bool) -> Result<()> {
    Ok(())
}
