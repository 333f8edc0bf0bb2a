//! Enumerations whose values are bytes on the wire.

/// An enumeration with every value there is, and the way back from a byte.
macro_rules! numbered {
    (
        $(#[$about:meta])*
        pub enum $kind:ident {
            $($(#[$doc:meta])* $name:ident = $value:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $kind {
            $($(#[$doc])* $name = $value,)+
        }

        impl $kind {
            /// All of them, in numeric order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The one with this value, if MQTT 5 defines it.
            #[inline]
            #[must_use]
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value {
                    $($value => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

pub(crate) use numbered;
