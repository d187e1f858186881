//! Offsets of fields in structs of the running kernel, from its type information (BTF,
//! `Documentation/bpf/btf.rst`).

use std::fs;
use std::io;

/// The kernel's type information.
pub(super) const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// `BTF_MAGIC` (`include/uapi/linux/btf.h`).
const MAGIC: u16 = 0xeb9f;

const KIND_STRUCT: u32 = 4;

/// Offsets in bytes of `fields`, each a struct and a field name, in the running kernel.
///
/// # Errors
/// Errors of reading the file, such as NotFound in a kernel without `CONFIG_DEBUG_INFO_BTF`;
/// InvalidData for an unknown field.
pub(super) fn offsets_in_kernel<const N: usize>(fields: [(&str, &str); N]) -> io::Result<[u32; N]> {
    let types = fs::read(KERNEL)?;
    let mut places = [0; N];
    for ((structure, field), place) in fields.into_iter().zip(&mut places) {
        let lacks = || io::Error::new(io::ErrorKind::InvalidData, format!("{KERNEL} has no {structure}.{field}"));
        *place = offset(&types, structure, field).ok_or_else(lacks)?;
    }
    Ok(places)
}

/// Offset of a field in a struct, in bytes. `None` if there is no such field, the field is not
/// aligned to a byte, or the BTF is malformed.
fn offset(btf: &[u8], structure: &str, field: &str) -> Option<u32> {
    let magic = u16::from_ne_bytes(btf.get(..2)?.try_into().ok()?);
    if magic != MAGIC {
        return None;
    }
    let header = word(btf, 4)? as usize;
    let [types_at, types_length, names_at, names_length] =
        [8, 12, 16, 20].map(|at| word(btf, at).map(|at| at as usize));
    let (types_at, names_at) = (header + types_at?, header + names_at?);
    let types = btf.get(types_at..types_at + types_length?)?;
    let names = btf.get(names_at..names_at + names_length?)?;
    let is = |at: u32, name: &str| {
        names
            .get(at as usize..)
            .is_some_and(|names| names.starts_with(name.as_bytes()) && names.get(name.len()) == Some(&0))
    };
    let mut at = 0;
    while at < types.len() {
        let (name, info) = (word(types, at)?, word(types, at + 4)?);
        let (kind, count, flag) = (info >> 24 & 0x1f, (info & 0xffff) as usize, info >> 31 == 1);
        let rest = at + 12;
        if kind == KIND_STRUCT && is(name, structure) {
            let mut members = (0..count).map(|member| rest + member * 12);
            let found = members.find(|at| word(types, *at).is_some_and(|name| is(name, field)))?;
            let place = word(types, found + 8)?;
            // With the flag set, the upper byte is the length of a bit field.
            let (bits, length) = if flag { (place & 0xff_ffff, place >> 24) } else { (place, 0) };
            return (bits % 8 == 0 && length == 0).then_some(bits / 8);
        }
        at = rest + extra(kind, count)?;
    }
    None
}

/// Number of bytes following a type description, by its kind.
const fn extra(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        3 => 12,
        // Structs, unions, 64-bit enumerations.
        4 | 5 | 19 => 12 * count,
        // Enumerations, function prototypes.
        6 | 13 => 8 * count,
        15 => 12 * count,
        // Pointers, forward declarations, typedefs, qualifiers, functions, floats, type tags.
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An integer, then a struct `pair` with the fields `first` and `second`; `second` lies at a
    /// byte or, with a length, among bits.
    fn description(place: u32, flag: bool) -> Vec<u8> {
        let names = b"\0pair\0first\0second\0";
        let mut types = Vec::new();
        let mut words = |words: &[u32]| words.iter().for_each(|word| types.extend(word.to_ne_bytes()));
        words(&[0, 1 << 24, 4, 32]);
        words(&[1, 4 << 24 | 2 | u32::from(flag) << 31, 16, 6, 1, 0, 12, 1, place]);
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let mut btf = [&MAGIC.to_ne_bytes()[..], &[1, 0]].concat();
        for word in [24, 0, length(&types), length(&types), length(names)] {
            btf.extend(word.to_ne_bytes());
        }
        [btf, types, names.to_vec()].concat()
    }

    #[test]
    fn a_field_is_found_by_the_names_of_its_struct_and_itself() {
        let plain = description(64, false);
        assert_eq!(offset(&plain, "pair", "first"), Some(0));
        assert_eq!(offset(&plain, "pair", "second"), Some(8));
        assert_eq!(offset(&plain, "pair", "secon"), None);
        assert_eq!(offset(&plain, "pai", "second"), None);
        assert_eq!(offset(&description(64, true), "pair", "second"), Some(8));
        assert_eq!(offset(&description(64 | 3 << 24, true), "pair", "second"), None, "a bit field");
        assert_eq!(offset(&description(63, false), "pair", "second"), None, "in the middle of a byte");
    }

    #[test]
    fn what_is_cut_short_or_something_else_has_no_fields() {
        let whole = description(64, false);
        for length in 0..whole.len() {
            assert_eq!(offset(&whole[..length], "pair", "third"), None, "{length}");
        }
        assert_eq!(offset(b"\x7fELF, and more of it than a header", "pair", "second"), None);
    }

    #[test]
    fn the_running_kernel_has_the_field_that_the_program_reads() {
        match offsets_in_kernel(sluicegate_ebpf::FIELDS) {
            Ok([acked, written, queued, buffer, copied, users]) => {
                assert!(acked > 500 && acked % 8 == 0 && written > 500 && copied > 500, "{acked} {written} {copied}");
                assert!(queued > 50 && buffer > 50 && queued != buffer, "{queued} {buffer}");
                assert!(users > 50 && users % 4 == 0, "{users}");
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}"),
        }
    }
}
