//! Parts of an object file visible to the kernel: instructions, maps, constants. Unreferenced
//! symbols, the order of tables and debug information are noise of the toolchain.

use std::collections::BTreeMap;

use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind};

/// Compared parts of an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// Definition of each map, as stored in the file.
    pub(super) maps: BTreeMap<String, Vec<u8>>,
    /// Each section of instructions, with its relocations by offset.
    code: BTreeMap<String, Code>,
    /// Each section of constants.
    constants: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Code {
    instructions: Vec<u8>,
    references: BTreeMap<u64, String>,
}

/// Size of an instruction in bytes (`struct bpf_insn`, `include/uapi/linux/bpf.h`).
const INSTRUCTION: usize = 8;

/// Section of the map definitions.
const MAPS: &str = "maps";

impl Program {
    /// Parses an object.
    pub(super) fn parse(bytes: &[u8]) -> object::Result<Self> {
        let file = ElfFile64::<object::Endianness>::parse(bytes)?;
        let mut program = Self { maps: BTreeMap::new(), code: BTreeMap::new(), constants: BTreeMap::new() };
        for section in file.sections() {
            let (name, data) = (section.name()?, section.data()?);
            match section.kind() {
                // Linked in by default, but never called.
                _ if name == ".text" => {}
                SectionKind::Text => {
                    let mut references = BTreeMap::new();
                    for (at, relocation) in section.relocations() {
                        let RelocationTarget::Symbol(index) = relocation.target() else { continue };
                        references.insert(at, file.symbol_by_index(index)?.name()?.to_owned());
                    }
                    program.code.insert(name.to_owned(), Code { instructions: data.to_vec(), references });
                }
                _ if name == MAPS => {
                    for symbol in file.symbols().filter(|symbol| symbol.section_index() == Some(section.index())) {
                        let definition = section.data_range(symbol.address(), symbol.size())?.unwrap_or_default();
                        if !definition.is_empty() {
                            program.maps.insert(symbol.name()?.to_owned(), definition.to_vec());
                        }
                    }
                }
                SectionKind::ReadOnlyData | SectionKind::Data => {
                    program.constants.insert(name.to_owned(), data.to_vec());
                }
                _ => {}
            }
        }
        Ok(program)
    }

    /// Number of instructions.
    pub(super) fn instructions(&self) -> usize {
        self.code.values().map(|code| code.instructions.len() / INSTRUCTION).sum()
    }

    /// First difference between two programs.
    pub(super) fn differs_from(&self, other: &Self) -> Option<String> {
        different(&self.maps, &other.maps)
            .map(|name| format!("map {name}"))
            .or_else(|| different(&self.code, &other.code).map(|name| format!("instructions of {name}")))
            .or_else(|| different(&self.constants, &other.constants).map(|name| format!("constants in {name}")))
    }
}

fn different<'a, T: PartialEq>(one: &'a BTreeMap<String, T>, two: &'a BTreeMap<String, T>) -> Option<&'a str> {
    one.keys().chain(two.keys()).find(|name| one.get(*name) != two.get(*name)).map(String::as_str)
}

/// Offset of a section in the file.
#[cfg(test)]
pub(super) fn place(bytes: &[u8], name: &str) -> Option<usize> {
    let file = ElfFile64::<object::Endianness>::parse(bytes).ok()?;
    let (at, _) = file.section_by_name(name)?.file_range()?;
    usize::try_from(at).ok()
}
