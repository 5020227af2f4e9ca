//! An XDP program that is not ours: it lets every packet pass.

use std::path::Path;

use anyhow::Context;

use super::Net;

/// The name that the kernel knows it by.
pub const FOREIGN: &str = "other_tool";
/// `r0 = XDP_PASS; exit`.
const CODE: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
const NAMES: &[u8; 40] = b"\0xdp\0license\0.symtab\0.strtab\0other_tool\0";
/// Where they are in it.
const OFFSETS: [u32; 5] = [1, 5, 13, 21, 29];

/// Attaches it to the appliance's front interface as `ip` does: `xdp` in the driver, `xdpgeneric` in the network stack.
///
/// # Errors
/// When `ip` fails.
pub fn attach_foreign(net: &Net, folder: &Path, mode: &str) -> anyhow::Result<()> {
    let file = folder.join("foreign.o");
    std::fs::write(&file, object())?;
    let file = file.to_str().context("a path that is not UTF-8")?;
    net.set_front(&[mode, "object", file, "section", "xdp"])
}

/// An ELF object for BPF: header, contents of the sections, and the table of sections (elf(5)).
fn object() -> Vec<u8> {
    let [xdp, license, symtab, strtab, function] = OFFSETS;
    let mut symbols = vec![0; 24];
    symbols.extend(function.to_le_bytes());
    // A global function in section 1, with its address and length.
    symbols.extend([0x12, 0, 1, 0]);
    symbols.extend([0, CODE.len() as u64].map(u64::to_le_bytes).concat());
    // Name, type, flags, contents, linked section, first global symbol, length of an entry.
    let sections = [
        (xdp, 1, 6, CODE.as_slice(), 0, 0, 0),
        (license, 1, 3, b"GPL\0\0\0\0\0".as_slice(), 0, 0, 0),
        (symtab, 2, 0, symbols.as_slice(), 4, 1, 24),
        (strtab, 3, 0, NAMES.as_slice(), 0, 0, 0),
    ];
    const HEADER: u64 = 64;
    let (mut contents, mut table) = (Vec::<u8>::new(), vec![0; 64]);
    for (name, kind, flags, bytes, link, info, entry) in sections {
        let at = HEADER + contents.len() as u64;
        table.extend([name, kind].map(u32::to_le_bytes).concat());
        table.extend([flags, 0, at, bytes.len() as u64].map(u64::to_le_bytes).concat());
        table.extend([link, info].map(u32::to_le_bytes).concat());
        table.extend([8, entry].map(u64::to_le_bytes).concat());
        contents.extend(bytes);
    }
    // 64 bits, little-endian; a relocatable object for BPF (247).
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([1u16, 247].map(u16::to_le_bytes).concat());
    file.extend(1u32.to_le_bytes());
    file.extend([0, 0, HEADER + contents.len() as u64].map(u64::to_le_bytes).concat());
    file.extend(0u32.to_le_bytes());
    file.extend([HEADER as u16, 0, 0, 64, 5, 4].map(u16::to_le_bytes).concat());
    file.extend(contents);
    file.extend(table);
    file
}
