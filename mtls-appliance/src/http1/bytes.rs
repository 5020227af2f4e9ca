//! Character classes of the grammar, and small helpers on byte strings. No policy.

/// `tchar` of RFC 9110 5.6.2.
const TOKEN: u8 = 1;
/// May stand in a path (RFC 3986 `pchar` and `/`, and `|[]`, which clients following the WHATWG URL standard send).
const PATH: u8 = 2;
/// May stand in a query: additionally what those clients leave unescaped there.
const QUERY: u8 = 4;
/// May stand in a host name or IPv4 address. Narrower than `reg-name` on purpose: sub-delims (comma among them) and
/// percent escapes occur in no DNS name and are read differently by different back ends.
const HOST: u8 = 8;
/// May stand in a field value: HTAB, SP, VCHAR, obs-text (RFC 9110 5.5).
const VALUE: u8 = 16;

const fn mark(mut table: [u8; 256], bytes: &[u8], class: u8) -> [u8; 256] {
    let mut i = 0;
    while i < bytes.len() {
        table[bytes[i] as usize] |= class;
        i += 1;
    }
    table
}

const CLASSES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        if b.is_ascii_alphanumeric() {
            table[byte] |= TOKEN | PATH | QUERY | HOST;
        }
        if (b >= b' ' && b != 0x7f) || b == b'\t' {
            table[byte] |= VALUE;
        }
        byte += 1;
    }
    table = mark(table, b"!#$%&'*+-.^_`|~", TOKEN);
    table = mark(table, b"-._~%!$&'()*+,;=:@/|[]", PATH | QUERY);
    table = mark(table, b"?{}^`\\", QUERY);
    mark(table, b"-._~", HOST)
};

const fn is(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|&byte| is(byte, class))
}

/// A non-empty token.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, TOKEN)
}

/// Whether every byte may stand in a field value.
pub(super) fn is_value(bytes: &[u8]) -> bool {
    all(bytes, VALUE)
}

/// Whether every byte may stand in a host name or IPv4 address.
pub(super) fn is_host(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, HOST)
}

/// Whether every byte may stand in a query.
pub(super) fn is_query(bytes: &[u8]) -> bool {
    all(bytes, QUERY)
}

/// Whether every byte may stand in a path and every escape is two hexadecimal digits other than `%00`.
pub(super) fn is_path(bytes: &[u8]) -> bool {
    if !all(bytes, PATH) {
        return false;
    }
    memchr::memchr_iter(b'%', bytes).all(|at| match (bytes.get(at + 1), bytes.get(at + 2)) {
        (Some(high), Some(low)) => high.is_ascii_hexdigit() && low.is_ascii_hexdigit() && (*high, *low) != (b'0', b'0'),
        _ => false,
    })
}

/// Without optional whitespace (SP and HTAB only) around it.
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The elements of a comma-separated list without quoted strings, trimmed, empty ones included.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim)
}

/// A decimal number: digits only, no sign; `None` on overflow of `u64`.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

/// Appends a decimal number.
pub(super) fn push_decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
