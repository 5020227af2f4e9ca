//! Registry files as operators write them, right and wrong.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const TWO: &str = r#"
[[organisation]]
codes = ["A1AAAA0000", "B1AAAA0000"]
name = "한빛은행"
serial_numbers = ["123-45-67890"]
sources = ["10.77.2.0/24", "fd77:2::/64", "10.77.2.128/25"]

[[organisation]]
codes = ["C1CCCC0000"]
name = "Card"
serial_numbers = ["999 99"]
sources = ["10.77.3.9", "10.77.1.0/24"]
"#;

/// Loads texts as files of one registry.
fn read(texts: &[&str]) -> Result<Registry, Mistakes> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("mtls-appliance-registry-{}-{count}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut files = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        let file = folder.join(format!("{at}.toml"));
        std::fs::write(&file, text).unwrap();
        files.push(file);
    }
    let result = load(&files);
    std::fs::remove_dir_all(&folder).unwrap();
    result
}

fn report(texts: &[&str]) -> String {
    match read(texts) {
        Ok(_) => panic!("accepted: {texts:?}"),
        Err(mistakes) => mistakes.to_string(),
    }
}

/// The report for one organisation with these lines instead of the good ones.
fn report_with(key: &str, line: &str) -> String {
    let lines = [
        ("codes", "codes = [\"A1\"]"),
        ("name", "name = \"n\""),
        ("serial_numbers", "serial_numbers = [\"1\"]"),
        ("sources", "sources = [\"10.0.0.0/8\"]"),
    ];
    let mut text = String::from("[[organisation]]\n");
    for (name, good) in lines {
        text.push_str(if name == key { line } else { good });
        text.push('\n');
    }
    report(&[&text])
}

fn name_at<'r>(registry: &'r Registry, address: &str) -> Option<&'r str> {
    registry.by_address(address.parse().unwrap()).map(|organisation| &*organisation.name)
}

#[test]
fn serial_numbers_are_found_by_exact_bytes_only() {
    let registry = read(&[TWO]).unwrap();
    assert_eq!(registry.organisations.len(), 2);
    assert_eq!(registry.by_serial_number("123-45-67890").unwrap().codes, ["A1AAAA0000", "B1AAAA0000"]);
    assert_eq!(registry.by_serial_number("999 99").unwrap().name, "Card");
    for other in ["", "123-45-6789", "123-45-67890 ", " 123-45-67890", "1234567890", "999  99", "123-45-67890\0"] {
        assert!(registry.by_serial_number(other).is_none(), "{other:?}");
    }
}

#[test]
fn addresses_are_found_in_their_prefix_and_nowhere_else() {
    let registry = read(&[TWO]).unwrap();
    for (address, name) in [
        ("10.77.2.0", Some("한빛은행")),
        ("10.77.2.200", Some("한빛은행")),
        ("10.77.2.255", Some("한빛은행")),
        ("::ffff:10.77.2.7", Some("한빛은행")),
        ("fd77:2::1", Some("한빛은행")),
        ("10.77.3.9", Some("Card")),
        ("10.77.1.255", Some("Card")),
        ("10.77.3.8", None),
        ("10.77.3.10", None),
        ("10.77.0.255", None),
        ("fd77:2:0:1::1", None),
        ("::a4d:207", None),
        ("255.255.255.255", None),
        ("0.0.0.0", None),
    ] {
        assert_eq!(name_at(&registry, address), name, "{address}");
    }
    assert_eq!(registry.prefixes().count(), 5);
    assert!(registry.prefixes().all(|(prefix, at)| registry.organisations[at].sources.contains(&prefix)));
}

#[test]
fn look_ups_by_address_agree_with_a_search_through_all_prefixes() {
    // A fixed pseudo-random sequence: nested and neighbouring prefixes of two organisations in two separate halves.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut text = String::new();
    for half in 0..2_u64 {
        let mut prefixes: Vec<String> = Vec::new();
        for _ in 0..200 {
            let length = 20 + next() % 13;
            let address = u32::try_from((half << 31) | (next() & 0xff_ffff)).unwrap() & (u32::MAX << (32 - length));
            let prefix = format!("\"{}/{length}\"", std::net::Ipv4Addr::from(address));
            if !prefixes.contains(&prefix) {
                prefixes.push(prefix);
            }
        }
        text.push_str(&format!(
            "[[organisation]]\ncodes = [\"A{half}\"]\nname = \"{half}\"\nserial_numbers = [\"{half}\"]\nsources = [{}]\n",
            prefixes.join(", ")
        ));
    }
    let registry = read(&[&text]).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let mut hits = 0;
    for _ in 0..20_000 {
        let address = IpAddr::from(std::net::Ipv4Addr::from(u32::try_from(next() & 0x80ff_ffff).unwrap()));
        let slow = registry.organisations.iter().find(|it| it.sources.iter().any(|prefix| prefix.contains(&address)));
        assert_eq!(registry.by_address(address), slow, "{address}");
        hits += usize::from(slow.is_some());
    }
    assert!(hits > 100, "{hits}");
}

#[test]
fn what_two_organisations_claim_is_refused_over_files_too() {
    let other = "[[organisation]]\ncodes = [\"B1AAAA0000\"]\nname = \"Other\"\nserial_numbers = [\"123-45-67890\"]\n\
                 sources = [\"10.77.2.128/26\", \"10.77.0.0/16\", \"fd77:2::/64\"]\n";
    let report = report(&[TWO, other]);
    for wanted in [
        "1.toml: 5 mistakes",
        "line 2: organisation[0] (B1AAAA0000).codes[0] = \"B1AAAA0000\": this code belongs to organisation[0] (A1AAAA0000) of ",
        "line 4: organisation[0] (B1AAAA0000).serial_numbers[0] = \"123-45-67890\": this serial number belongs to",
        "sources[0] = \"10.77.2.128/26\": overlaps 10.77.2.0/24 of organisation[0] (A1AAAA0000)",
        "sources[1] = \"10.77.0.0/16\": overlaps 10.77.1.0/24 of organisation[1] (C1CCCC0000)",
        "sources[2] = \"fd77:2::/64\": this prefix belongs to organisation[0] (A1AAAA0000) of ",
    ] {
        assert!(report.contains(wanted), "{wanted:?} is not in:\n{report}");
    }
}

#[test]
fn a_prefix_that_encloses_another_organisations_is_refused_in_either_order() {
    let organisation = |code: &str, source: &str| {
        format!(
            "[[organisation]]\ncodes = [\"{code}\"]\nname = \"n\"\nserial_numbers = [\"{code}\"]\nsources = [\"{source}\"]\n"
        )
    };
    let (wide, narrow) = (organisation("A1", "10.0.0.0/8"), organisation("B1", "10.1.2.3"));
    assert!(report(&[&format!("{wide}{narrow}")]).contains("overlaps 10.0.0.0/8 of organisation[0] (A1); an address"));
    assert!(report(&[&wide, &narrow]).contains("overlaps 10.0.0.0/8 of organisation[0] (A1)"));
    assert!(report(&[&narrow, &wide]).contains("overlaps 10.1.2.3/32 of organisation[0] (B1)"));
    assert!(read(&[&wide, &organisation("B1", "11.0.0.0/8")]).is_ok());
}

#[test]
fn each_wrong_value_is_named_with_its_remedy() {
    for (key, line, wanted) in [
        (
            "sources",
            "sources = [\"10.77.2.1/24\"]",
            "write \"10.77.2.0/24\" for the network, or \"10.77.2.1\" for the one",
        ),
        ("sources", "sources = [\"10.0.0.0/33\"]", "not an address prefix"),
        ("sources", "sources = [\"bank.example\"]", "not an address prefix"),
        ("sources", "sources = [\"0.0.0.0/0\"]", "every address would belong"),
        ("sources", "sources = [\"::ffff:10.0.0.0/104\"]", "write it as IPv4"),
        ("sources", "sources = [\"10.0.0.1\", \"10.0.0.1/32\"]", "given twice"),
        ("sources", "sources = \"10.0.0.1\"", "a list is wanted here, this is a string"),
        ("sources", "sources = [10]", "a string is wanted here, this is a whole number"),
        ("serial_numbers", "serial_numbers = [\" 1\"]", "a space at the beginning or end"),
        ("serial_numbers", "serial_numbers = [\"1 \"]", "a space at the beginning or end"),
        ("serial_numbers", "serial_numbers = [\"\"]", "1 to 20 bytes, this one 0"),
        ("serial_numbers", "serial_numbers = [\"123456789012345678901\"]", "1 to 20 bytes, this one 21"),
        ("serial_numbers", "serial_numbers = [\"1\\u0000\"]", "not printable ASCII"),
        ("serial_numbers", "serial_numbers = [\"１\"]", "not printable ASCII"),
        ("serial_numbers", "serial_numbers = [\"1\", \"1\"]", "given twice"),
        ("codes", "codes = [\"A1\", \"A1\"]", "given twice"),
        ("codes", "codes = [\"A1-\"]", "1 to 10 letters and digits"),
        ("codes", "codes = [\"A1AAAA00001\"]", "1 to 10 letters and digits"),
        ("codes", "codes = []", "an organisation needs a code"),
        ("codes", "", "an organisation needs a code"),
        ("name", "", "organisation[0] (A1).name: is missing"),
        ("name", "name = \"\"", "1 to 60 bytes, this one 0"),
        ("name", "name = \"a\\nb\"", "no control characters"),
        ("name", "name = \"n\"\nsource = [\"10.0.0.1\"]", "did you mean `sources`?"),
    ] {
        let report = report_with(key, line);
        assert!(report.contains(wanted), "{line}: {wanted:?} is not in:\n{report}");
        assert!(report.contains("1 mistake\n"), "{line}:\n{report}");
    }
}

#[test]
fn an_empty_registry_is_refused() {
    assert!(report(&[""]).contains("names no organisation"));
    assert!(report(&["organisation = []"]).contains("names no organisation"));
    assert!(
        report(&["[[organisation]]\ncodes = [\"A1\"]\nname = \"n\"\n"])
            .contains("neither a serial number nor an address")
    );
    let addresses_alone = "[[organisation]]\ncodes = [\"A1\"]\nname = \"n\"\nsources = [\"10.0.0.1\"]\n";
    assert!(report(&[addresses_alone]).contains("nobody could call"));
}

#[test]
fn mistakes_of_every_file_are_reported() {
    let absent = PathBuf::from("/no/such/registry.toml");
    let report = load(&[absent, PathBuf::from("/no/such/other.toml")]).unwrap_err().to_string();
    assert!(report.contains("registry.files[0]") && report.contains("registry.files[1]"), "{report}");
}

#[test]
fn a_hundred_thousand_organisations_are_loaded_and_found() {
    use std::fmt::Write;
    let mut text = String::new();
    for at in 0..100_000_u32 {
        let source = std::net::Ipv4Addr::from(0x0a00_0000 + at * 4);
        write!(
            text,
            "[[organisation]]\ncodes = [\"A{at:09}\"]\nname = \"Organisation {at}\"\nserial_numbers = [\"{at:010}\"]\n\
             sources = [\"{source}/30\"]\n"
        )
        .unwrap();
    }
    let start = std::time::Instant::now();
    let registry = read(&[&text]).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    eprintln!("loaded in {:?}", start.elapsed());
    assert_eq!(registry.by_serial_number("0000099999").map(|it| &*it.name), Some("Organisation 99999"));
    assert_eq!(name_at(&registry, "10.0.0.7"), Some("Organisation 1"));
    assert_eq!(name_at(&registry, "10.6.26.128"), None);
}

#[test]
fn the_development_registry_is_valid_and_knows_the_development_callers() {
    let registry = read(&[dev_pki::REGISTRY]).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(registry.by_serial_number("345-67-89012").map(|it| &*it.name), Some("가나다은행"));
    assert_eq!(name_at(&registry, "10.77.4.9"), Some("남산카드"));
    assert!(registry.by_serial_number("999-99-99999").is_none());
}
