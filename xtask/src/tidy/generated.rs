//! Generated tables in the documents, each between a pair of markers.

use super::finding::Finding;

/// A table and its place: between `<!-- NAME -->` and `<!-- /NAME -->` in a document.
#[derive(Debug)]
pub(super) struct Generated {
    pub(super) document: &'static str,
    pub(super) name: &'static str,
    pub(super) table: String,
}

impl Generated {
    /// Returns the document with the table between its markers.
    ///
    /// # Errors
    /// A finding if the markers are missing.
    pub(super) fn rewrite(&self, text: &str) -> Result<String, Finding> {
        let (before, _, after) = split(text, self.name).ok_or_else(|| {
            let remedy = format!("add a line <!-- {0} --> and a line <!-- /{0} -->", self.name);
            Finding::new(self.document, 1, format!("the table '{}' has no markers", self.name), remedy)
        })?;
        let (open, close) = markers(self.name);
        Ok(format!("{before}{open}{}\n{close}{after}", self.table.trim_end()))
    }

    /// Finds the first line that differs from the generated table.
    pub(super) fn check(&self, text: &str) -> Option<Finding> {
        let right = match self.rewrite(text) {
            Ok(right) => right,
            Err(finding) => return Some(finding),
        };
        let (mut is, mut should) = (text.lines(), right.lines());
        let mut number = 0;
        loop {
            number += 1;
            match (is.next(), should.next()) {
                (None, None) => return None,
                (is, should) if is == should => {}
                (_, should) => {
                    let rule = format!("the table '{}' is stale; expected: {}", self.name, should.unwrap_or("nothing"));
                    return Some(Finding::new(self.document, number, rule, "run cargo xtask tidy --fix"));
                }
            }
        }
    }
}

/// Splits the text into the parts before, between and after the markers of `name`.
pub(super) fn split<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let (open, close) = markers(name);
    let (before, rest) = text.split_once(&open)?;
    let (between, after) = rest.split_once(&close)?;
    Some((before, between, after))
}

fn markers(name: &str) -> (String, String) {
    (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generated() -> Generated {
        let table = "| option |\n|---|\n| `--listen` |\n".to_owned();
        Generated { document: "docs/x.md", name: "options", table }
    }

    #[test]
    fn a_table_is_checked_and_rewritten() {
        let stale = "# x\n<!-- options -->\n| option |\n|---|\n| `--gone` |\n<!-- /options -->\nrest\n";
        let generated = generated();
        let found = generated.check(stale).unwrap().to_string();
        assert!(found.starts_with("docs/x.md:5: ") && found.contains("`--listen`"), "{found}");
        let fixed = generated.rewrite(stale).unwrap();
        assert_eq!(generated.check(&fixed), None);
        assert!(fixed.starts_with("# x\n") && fixed.ends_with("\nrest\n") && !fixed.contains("--gone"));
        assert_eq!(generated.rewrite(&fixed).unwrap(), fixed);
    }

    #[test]
    fn missing_markers_are_a_finding() {
        let found = generated().check("# x\n").unwrap().to_string();
        assert!(found.contains("has no markers") && found.contains("<!-- /options -->"), "{found}");
    }
}
