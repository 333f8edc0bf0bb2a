//! The form of a payload that is signed.
//!
//! A signature must not depend on how a value happens to be laid out, but it must not depend on
//! anybody's idea of a number or of an escape either. So the canonical form is the text itself,
//! without the white space that means nothing; numbers and strings keep the characters that were
//! sent.
//!
//! The version 1 form may also have its members sorted, which is done in the caller's
//! scratch slots: it notes where each member starts and ends in one pass, after which the members
//! of an object are found by stepping over what is inside of them, sorted, and fed to the sink in
//! order. Every byte is looked at a fixed number of times, whatever the nesting: O(n log n) for
//! any input.

use core::fmt;

use crate::json::{cmp_names, find_close, is_space, prefix, skip_space};

/// Feeds valid JSON `text`, or a piece of it between tokens, to `sink` without insignificant
/// white space.
pub(crate) fn compact(text: &[u8], sink: &mut impl FnMut(&[u8])) {
    let mut run = 0;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        if byte == b'"' {
            at = find_close(text, at + 1) + 1;
        } else if is_space(byte) {
            feed(text, run, at, sink);
            run = skip_space(text, at + 1);
            at = run;
        } else {
            at += 1;
        }
    }
    feed(text, run, text.len(), sink);
}

fn feed(text: &[u8], from: usize, to: usize, sink: &mut impl FnMut(&[u8])) {
    if let Some(piece) = text.get(from..to)
        && !piece.is_empty()
    {
        sink(piece);
    }
}

/// There are more members than scratch slots to sort them in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyMembers;

impl fmt::Display for TooManyMembers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many members to sort: give two scratch slots for each member")
    }
}

impl core::error::Error for TooManyMembers {}

/// Feeds valid JSON `text` to `sink`, compact, with the members of every object sorted.
pub(crate) fn sorted(
    text: &[u8],
    slots: &mut [u64],
    sink: &mut impl FnMut(&[u8]),
) -> Result<(), TooManyMembers> {
    let count = index(text, slots).ok_or(TooManyMembers)?;
    let (members, order) = slots.split_at_mut(count);
    // Siblings that are being worked on at the same time are never more than all members.
    let order = order.get_mut(..count).ok_or(TooManyMembers)?;
    feed_sorted(text, (0, text.len()), members, order, sink);
    Ok(())
}

/// A member as the index has it: where its name starts (after the quote) and its value ends.
#[derive(Clone, Copy)]
struct Member {
    name: usize,
    end: usize,
}

impl Member {
    const fn unpack(slot: u64) -> Self {
        Self {
            name: (slot >> 32) as usize,
            end: slot as u32 as usize,
        }
    }

    const fn pack(self) -> u64 {
        (self.name as u64) << 32 | self.end as u64
    }
}

/// Notes every member of valid JSON `text` in `slots`, in the order of the text; how many there
/// are, or `None` if there are more than slots.
fn index(text: &[u8], slots: &mut [u64]) -> Option<usize> {
    let mut count = 0;
    // Which member is open in the object at each depth, and whether a name comes next there.
    // Arrays are levels without either.
    let mut open = [Level::ARRAY; crate::limits::MAX_DEPTH + 1];
    let mut depth = 0;
    let mut at = 0;
    // Where the last token ended: the end of a value is before the white space behind it.
    let mut last = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => {
                let close = find_close(text, at + 1);
                let level = open.get_mut(depth)?;
                if level.name_next {
                    let name = at + 1;
                    *slots.get_mut(count)? = Member { name, end: 0 }.pack();
                    *level = Level {
                        object: true,
                        name_next: false,
                        member: count,
                    };
                    count += 1;
                }
                at = close;
            }
            b'{' | b'[' => {
                depth += 1;
                *open.get_mut(depth)? = Level {
                    object: byte == b'{',
                    name_next: byte == b'{',
                    member: 0,
                };
            }
            b',' | b'}' | b']' => {
                let level = open.get_mut(depth)?;
                // A comma or the end closes a member, unless the object is empty.
                if level.object && !level.name_next {
                    *slots.get_mut(level.member)? |= last as u64;
                }
                if byte == b',' {
                    level.name_next = level.object;
                } else {
                    depth = depth.checked_sub(1)?;
                }
            }
            _ if is_space(byte) => {
                at += 1;
                continue;
            }
            _ => {}
        }
        at += 1;
        last = at;
    }
    Some(count)
}

#[derive(Clone, Copy)]
struct Level {
    object: bool,
    name_next: bool,
    member: usize,
}

impl Level {
    const ARRAY: Self = Self {
        object: false,
        name_next: false,
        member: 0,
    };
}

/// Feeds `text[range]`, whose members are `members`. Recurses once per level of objects, which are
/// at most [`MAX_DEPTH`](crate::limits::MAX_DEPTH).
fn feed_sorted(
    text: &[u8],
    range: (usize, usize),
    members: &[u64],
    order: &mut [u64],
    sink: &mut impl FnMut(&[u8]),
) {
    let piece = |from: usize, to: usize| text.get(from..to).unwrap_or(&[]);
    let (mut at, end) = range;
    let mut rest = members;
    while let Some(first) = rest.first() {
        // Up to and with the brace of the next object that has members.
        compact(piece(at, Member::unpack(*first).name - 1), sink);
        let object = gather(text, rest, order);
        at = object.end;
        let (siblings, deeper) = order.split_at_mut(object.count);
        siblings.sort_unstable_by(|a, b| {
            // The first four bytes of the names nearly always decide.
            (a >> 32).cmp(&(b >> 32)).then_with(|| {
                let name = |slot: u64| {
                    let member = rest.get(slot as u32 as usize);
                    member.map_or(0, |member| Member::unpack(*member).name)
                };
                cmp_names(text, name(*a), name(*b))
            })
        });
        for (position, slot) in siblings.iter().enumerate() {
            let place = *slot as u32 as usize;
            let Some((own, inside)) = rest.get(place..).and_then(<[u64]>::split_first) else {
                return;
            };
            let member = Member::unpack(*own);
            let close = find_close(text, member.name);
            let value = skip_space(text, skip_space(text, close + 1) + 1);
            if position > 0 {
                sink(b",");
            }
            sink(piece(member.name - 1, close + 1));
            sink(b":");
            let inside = inside.get(..inner(inside, member.end)).unwrap_or(&[]);
            feed_sorted(text, (value, member.end), inside, deeper, sink);
        }
        rest = rest.get(object.taken..).unwrap_or(&[]);
    }
    compact(piece(at, end), sink);
}

/// How many of `members` start before `end`: those inside the member that ends there.
fn inner(members: &[u64], end: usize) -> usize {
    members.partition_point(|member| Member::unpack(*member).name < end)
}

struct Gathered {
    /// How many members the object itself has: as many slots of `order` are filled.
    count: usize,
    /// How many members there are in it at any depth.
    taken: usize,
    /// Where its last member ends.
    end: usize,
}

/// Notes the siblings of the first of `members`, that first one included, in `order`: a name's
/// prefix in the upper half, the place in `members` in the lower.
fn gather(text: &[u8], members: &[u64], order: &mut [u64]) -> Gathered {
    let mut object = Gathered {
        count: 0,
        taken: 0,
        end: 0,
    };
    for slot in order.iter_mut() {
        let Some((own, behind)) = members.get(object.taken..).and_then(<[u64]>::split_first) else {
            break;
        };
        let member = Member::unpack(*own);
        *slot = u64::from(prefix(text, member.name)) << 32 | object.taken as u64;
        object.count += 1;
        object.taken += 1 + inner(behind, member.end);
        object.end = member.end;
        if text.get(skip_space(text, member.end)) != Some(&b',') {
            break;
        }
    }
    object
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::String;
    use std::vec::Vec;

    use crate::json::Payload;

    fn forms(text: &str) -> (String, String) {
        let mut slots = [0; 64];
        let payload = Payload::parse(text.as_bytes(), &mut slots).unwrap();
        let (mut plain, mut sorted) = (Vec::new(), Vec::new());
        payload.canonical(|piece| plain.extend_from_slice(piece));
        payload
            .sorted(&mut slots, |piece| sorted.extend_from_slice(piece))
            .unwrap();
        (
            String::from_utf8(plain).unwrap(),
            String::from_utf8(sorted).unwrap(),
        )
    }

    #[test]
    fn white_space_goes_and_nothing_else() {
        let (plain, sorted) = forms(
            "\t{ \"b\" : [ 1.0 , { \"y\" : \" a  b \" ,\"x\":-0 } , { } ,{\"k\":1 }\n] , \"a\\\"\" : \"\\u0020\" ,\r\n\"\":[ ]}  ",
        );
        assert_eq!(
            plain,
            r#"{"b":[1.0,{"y":" a  b ","x":-0},{},{"k":1}],"a\"":"\u0020","":[]}"#
        );
        assert_eq!(
            sorted,
            r#"{"":[],"a\"":"\u0020","b":[1.0,{"x":-0,"y":" a  b "},{},{"k":1}]}"#
        );
    }

    #[test]
    fn names_sort_by_code_points_and_keep_their_spelling() {
        let (_, sorted) = forms(
            r#"{"\ud83d\ude00":1,"\uffff":2,"b":3,"\u0061":4,"a\u0000":5,"aaaab":6,"aaaaa":7}"#,
        );
        assert_eq!(
            sorted,
            r#"{"\u0061":4,"a\u0000":5,"aaaaa":7,"aaaab":6,"b":3,"\uffff":2,"\ud83d\ude00":1}"#
        );
    }

    #[test]
    fn too_few_slots_are_told() {
        let mut slots = [0; 64];
        let payload = Payload::parse(br#"{"b":1,"a":{"d":1,"c":2}}"#, &mut slots).unwrap();
        for few in 0..8 {
            assert!(
                payload
                    .sorted(&mut slots[..few], |_| panic!("fed"))
                    .is_err()
            );
        }
        assert!(payload.sorted(&mut slots[..8], |_| ()).is_ok());
    }
}
