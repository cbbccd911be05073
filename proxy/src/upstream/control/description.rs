use bytestring::ByteString;
use outrigger_filters::{batch::Batchable, inference::Signature};

use crate::codec::tfs_grpc::control::{DEFAULT_SIGNATURE, NamedSignature};

/// A model as its server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Whether it takes batches.
    pub batchable: Batchable,
    /// What it takes and gives, by the signature's name: all signatures of a model of TensorFlow
    /// Serving, and of other servers the one that a model has, by an empty name. None where the
    /// server does not say.
    pub signatures: Vec<NamedSignature>,
    /// The versions that are served, as far as the server says.
    pub versions: Vec<ByteString>,
    /// The framework, where the server names it.
    pub platform: ByteString,
    /// Whether tensors go to and fro in binary form over REST; of other protocols this says
    /// nothing.
    pub binary: bool,
}

impl Description {
    /// Returns a signature by its name; the default one is asked for by an empty name or by the
    /// one that TensorFlow gives it.
    pub fn signature(&self, name: &str) -> Option<&Signature> {
        let wanted = canonical(name);
        self.signatures
            .iter()
            .find(|named| canonical(&named.name) == wanted)
            .map(|named| &named.signature)
    }
}

impl Default for Description {
    /// Makes the description by a server that says nothing.
    fn default() -> Self {
        Self {
            batchable: Batchable::Unknown,
            signatures: Vec::new(),
            versions: Vec::new(),
            platform: ByteString::new(),
            binary: false,
        }
    }
}

fn canonical(name: &str) -> &str {
    if name == DEFAULT_SIGNATURE { "" } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &'static str) -> NamedSignature {
        NamedSignature {
            name: name.into(),
            ..NamedSignature::default()
        }
    }

    #[test]
    fn the_default_signature_has_two_names() {
        for name in ["", DEFAULT_SIGNATURE] {
            let described = Description {
                signatures: vec![named("other"), named(name)],
                ..Description::default()
            };
            let default = &described.signatures[1].signature;
            for asked in ["", DEFAULT_SIGNATURE] {
                let found = described.signature(asked).unwrap();
                assert!(std::ptr::eq(found, default), "{asked}");
            }
            assert!(described.signature("other").is_some());
            assert_eq!(described.signature("nobody's"), None);
        }
    }
}
