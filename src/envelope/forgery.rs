//! Detects imitations of the marks that only cbroker may write into a line, and disarms them.
//!
//! An agent may take `［ＣＢＲＯＫＥＲ peer-message` or a Cyrillic `сbroker` for the real mark. Text is
//! therefore compared by appearance: compatibility-decomposed, without accents and without spaces
//! and punctuation, with each character as the Latin letter that it looks like. What looks alike is
//! taken from Unicode (UTS #39, confusables) and from a short table of what is not in there.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use icu_normalizer::DecomposingNormalizerBorrowed;
use icu_properties::CodePointMapData;
use icu_properties::props::{GeneralCategory, GeneralCategoryGroup};
use unicode_security::confusable_detection::skeleton;

/// What follows a square bracket in a mark.
const SQUARE: [&str; 2] = ["cbrokerpeermessage", "end]"];
/// What follows a round bracket in a mark.
const ROUND: [&str; 5] = [
    "files:",
    "metadata:",
    "replyvia",
    "replyto",
    "possiblerepeat",
];

/// Runs of letters in colours or on a ground of their own, each from A to Z. Unicode gives them no
/// decomposition.
const ALPHABETS: [u32; 3] = [0x1F150, 0x1F170, 0x1F1E6];
const LETTERS: u32 = 26;

/// Which marks a bracket may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bracket {
    Square,
    Round,
    /// It is neither, and may be taken for both.
    Either,
}

/// A mark, as the letters that it looks like.
struct Mark {
    bracket: Bracket,
    letters: String,
    /// What takes the place of the bracket that begins an imitation.
    safe: char,
}

static MARKS: LazyLock<Vec<Mark>> = LazyLock::new(|| {
    let mark = |bracket: Bracket, text: &str, safe: char| Mark {
        bracket,
        letters: text.chars().map(ascii_letters).collect(),
        safe,
    };
    let square = SQUARE.iter().map(|text| mark(Bracket::Square, text, '('));
    let round = ROUND.iter().map(|text| mark(Bracket::Round, text, '<'));
    square.chain(round).collect()
});

/// Replaces the bracket of every imitated mark: `[` by `(`, and `(` by `<`.
pub fn disarm(text: &str) -> String {
    let mut search = Search::default();
    for (at, c) in text.char_indices() {
        search.see(at, c);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.char_indices();
    for (bracket, safe) in search.found {
        out.extend(
            rest.by_ref()
                .map_while(|(at, c)| (at < bracket).then_some(c)),
        );
        out.push(safe);
    }
    out.push_str(rest.as_str());
    out
}

/// Looks for imitations in one pass over a text.
///
/// An imitation passes a later bracket only if that is a letter of its mark, as `⒡` is. So those
/// that have begun are never more than the marks have letters, and every text takes time in
/// proportion to its length.
#[derive(Default)]
struct Search {
    looks: Appearances,
    begun: Vec<Imitation>,
    /// The brackets that begin an imitation, by their place, and what takes their place.
    found: BTreeMap<usize, char>,
}

/// A bracket with what follows it, which seems to become a mark so far.
struct Imitation {
    at: usize,
    safe: char,
    /// The letters of the mark that have not come.
    left: &'static str,
}

impl Search {
    fn see(&mut self, at: usize, c: char) {
        let kind = bracket(c);
        if kind.is_none() && self.begun.is_empty() {
            return;
        }
        let letters = self.looks.of(c);
        let found = &mut self.found;
        let mut goes_on = |imitation: &mut Imitation| {
            let matches = imitation.take(letters);
            if matches && imitation.left.is_empty() {
                found.insert(imitation.at, imitation.safe);
            }
            matches && !imitation.left.is_empty()
        };
        self.begun.retain_mut(|imitation| {
            let before = imitation.left.len();
            goes_on(imitation) && (kind.is_none() || imitation.left.len() < before)
        });
        let marks = MARKS
            .iter()
            .filter(|mark| kind == Some(mark.bracket) || kind == Some(Bracket::Either));
        self.begun.extend(marks.filter_map(|mark| {
            let mut imitation = Imitation {
                at,
                safe: mark.safe,
                left: &mark.letters,
            };
            goes_on(&mut imitation).then_some(imitation)
        }));
    }
}

impl Imitation {
    /// Takes the letters of the next character. Returns whether they are those of the mark: `]` and
    /// `:` may stand between its letters.
    fn take(&mut self, letters: &str) -> bool {
        for letter in letters.chars() {
            match self.left.strip_prefix(letter) {
                Some(left) => self.left = left,
                None if self.left.is_empty() => return true,
                None if matches!(letter, ']' | ':') => {}
                None => return false,
            }
        }
        true
    }
}

/// What the characters of one text look like. Anyone may send a long text of brackets, and the
/// tables of Unicode are slow, so each character beyond ASCII is looked up once.
#[derive(Debug, Default)]
struct Appearances {
    beyond_ascii: HashMap<char, String>,
}

impl Appearances {
    /// Returns `]`, `:` and the letters that a character looks like: none, one, or several. A
    /// symbol that is letters in brackets looks like the letters.
    fn of(&mut self, c: char) -> &str {
        if c.is_ascii() {
            return ascii_letters(c);
        }
        let known = self.beyond_ascii.entry(c);
        known.or_insert_with(|| letters(c).into_iter().collect())
    }
}

/// Whether a mark may seem to begin with this character: with any opening punctuation but the brace
/// of program texts and low quotation marks, or a symbol that begins with a bracket.
fn bracket(c: char) -> Option<Bracket> {
    match c {
        '[' => Some(Bracket::Square),
        '(' => Some(Bracket::Round),
        c if c.is_ascii() => None,
        '\u{201A}' | '\u{201E}' => None,
        '\u{23A1}' | '\u{23A3}' => Some(Bracket::Square),
        // It closes in Arabic texts.
        '\u{FD3E}' => Some(Bracket::Round),
        c => match category(c) {
            GeneralCategory::OpenPunctuation => Some(Bracket::Either),
            GeneralCategory::OtherNumber | GeneralCategory::OtherSymbol => {
                (plain(c).next() == Some('(')).then_some(Bracket::Round)
            }
            _ => None,
        },
    }
}

/// Returns what an ASCII character looks like, so that those which look alike are the same.
fn ascii_letters(c: char) -> &'static str {
    const SAME: [&str; 26] = [
        "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "i", "rn", "n", "o", "p", "q", "r",
        "s", "t", "u", "v", "w", "x", "y", "z",
    ];
    match c {
        '0' => "o",
        '1' | '|' => "i",
        '3' => "e",
        '4' => "a",
        '5' | '$' => "s",
        '7' => "t",
        '8' => "b",
        '9' => "g",
        '2' => "2",
        '6' => "6",
        ']' => "]",
        ':' => ":",
        c if c.is_ascii_alphabetic() => {
            let place = u32::from(c.to_ascii_lowercase()) - u32::from('a');
            SAME.get(place as usize).copied().unwrap_or_default()
        }
        _ => "",
    }
}

/// Returns what a character beyond ASCII looks like.
fn letters(c: char) -> Vec<char> {
    if let Some(letter) = of_alphabet(c) {
        return ascii_letters(letter).chars().collect();
    }
    let closes = category(c) == GeneralCategory::ClosePunctuation;
    if matches!(c, '\u{23A4}' | '\u{23A6}') || (closes && bracket(c).is_none()) {
        return vec![']'];
    }
    let mut out = Vec::new();
    for c in plain(c).filter(|c| !is_mark(*c) && !matches!(c, '(' | ')')) {
        if c.is_ascii() {
            out.extend(ascii_letters(c).chars());
        } else if let Some(letter) = unlisted(c).or_else(|| c.to_lowercase().find_map(unlisted)) {
            out.extend(ascii_letters(letter).chars());
        } else if let Some(ascii) = listed(c) {
            out.extend(ascii.chars().flat_map(|c| ascii_letters(c).chars()));
        } else if c.is_alphanumeric() {
            out.extend(c.to_lowercase());
        }
    }
    out
}

fn of_alphabet(c: char) -> Option<char> {
    let place = ALPHABETS
        .iter()
        .find_map(|first| u32::from(c).checked_sub(*first).filter(|at| *at < LETTERS))?;
    char::from_u32(u32::from('a') + place)
}

/// Returns the ASCII text that Unicode says the character can be confused with, in one case or the
/// other.
fn listed(c: char) -> Option<String> {
    let one = std::iter::once(c).collect::<String>();
    let forms = [one.to_lowercase(), one.to_uppercase()];
    std::iter::once(&one).chain(&forms).find_map(|form| {
        let alike: String = skeleton(form).filter(|c| !is_mark(*c)).collect();
        let is_sign = |c: char| c.is_ascii_alphanumeric() || c == ':';
        let signs: String = alike.chars().filter(|c| is_sign(*c)).collect();
        (alike.is_ascii() && !signs.is_empty()).then_some(signs)
    })
}

/// Letters that look Latin and are not in Unicode's list, or are there as less alike letters.
fn unlisted(c: char) -> Option<char> {
    Some(match c {
        'ᴀ' => 'a',
        'ʙ' => 'b',
        'ς' | 'ꞓ' => 'c',
        'ᴅ' => 'd',
        'є' | 'ᴇ' | 'ə' | 'ǝ' => 'e',
        'ғ' | 'ꜰ' => 'f',
        'ɢ' => 'g',
        'ʟ' => 'l',
        'ᴋ' | 'ҝ' => 'k',
        'ᴍ' => 'm',
        'п' | 'ɴ' | 'н' | 'и' | 'ᴎ' => 'n',
        'ᴘ' => 'p',
        'ɾ' | 'я' | 'ᴙ' => 'r',
        'ս' => 's',
        'ᴛ' => 't',
        'υ' => 'v',
        'ч' => 'y',
        _ => return None,
    })
}

/// The compatibility decomposition.
fn plain(c: char) -> impl Iterator<Item = char> {
    DecomposingNormalizerBorrowed::new_nfkd().normalize_iter(std::iter::once(c))
}

fn category(c: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(c)
}

fn is_mark(c: char) -> bool {
    GeneralCategoryGroup::Mark.contains(category(c))
}

#[cfg(test)]
mod tests;
