//! A stored definition of topology: the length of its key in one octet, the key, the value.

#![no_main]

use broker::persist::definition::Definition;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&length, rest)) = bytes.split_first() else {
        return;
    };
    let Some((key, value)) = rest.split_at_checked(length.into()) else {
        return;
    };
    if let Ok(definition) = Definition::decode(key, value) {
        assert_eq!(definition.key(), key);
        assert_eq!(
            Definition::decode(&definition.key(), &definition.value()),
            Ok(definition)
        );
    }
});
