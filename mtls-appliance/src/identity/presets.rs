//! Header sets with a name: what origins of a given habit expect, as data.

use super::template::{Encoding, HeaderTemplate, TemplateError};

/// A named set of fields.
#[derive(Debug)]
pub struct Preset {
    /// As in `identity.presets`.
    pub name: &'static str,
    /// For the reference.
    pub meaning: &'static str,
    /// Name and template of each field.
    pub fields: &'static [(&'static str, &'static str)],
}

/// All presets.
pub static PRESETS: &[Preset] = &[
    Preset {
        name: "mydata",
        meaning: "who called, as single facts: for origins that check the registered SERIALNUMBER on every call",
        fields: &[
            ("X-MyData-Client-Verify", "SUCCESS"),
            ("X-MyData-Client-DN", "${subject.dn}"),
            ("X-MyData-Client-SerialNumber", "${subject.serial_number}"),
            ("X-MyData-Client-Cert-Serial", "${certificate.serial}"),
            ("X-MyData-Client-Fingerprint", "${certificate.fingerprint}"),
            ("X-MyData-Client-Not-Before", "${certificate.not_before}"),
            ("X-MyData-Client-Not-After", "${certificate.not_after}"),
            ("X-MyData-Client-Org-Code", "${org.code}"),
            ("X-MyData-Client-Org-Name", "${org.name}"),
        ],
    },
    Preset {
        name: "rfc9440",
        meaning: "the certificates themselves (RFC 9440); the chain only where the caller sent one",
        fields: &[("Client-Cert", ":${certificate.der_base64}:"), ("Client-Cert-Chain", "${chain.rfc9440}")],
    },
];

impl Preset {
    /// The fields as templates.
    ///
    /// # Errors
    /// None for the presets of [`PRESETS`]; a test sees to it.
    pub fn templates(&self) -> Result<Vec<HeaderTemplate>, TemplateError> {
        self.fields.iter().map(|(name, value)| HeaderTemplate::parse(name, value, Encoding::Percent)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ReservedNames;

    #[test]
    fn every_preset_is_made_of_valid_templates_and_its_names_are_always_reserved() {
        let reserved = ReservedNames::default();
        for preset in PRESETS {
            for template in preset.templates().unwrap() {
                assert!(reserved.contains(template.name.as_bytes()), "{}", template.name);
            }
        }
    }
}
