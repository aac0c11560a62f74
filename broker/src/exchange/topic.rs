//! Topic patterns as a trie: `*` matches one word, `#` matches any number of words.
//!
//! Routing advances a set of active nodes through the key word by word and never backtracks, so
//! each word of a key costs at most the nodes of the trie, even for `#.a.#.a.#`. A node can be
//! added to the set only once for each word: it has one parent, and `opened` prevents the one
//! exception, entering a `#` again that is still active. Each addition counts as a step.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use super::steps::RoutingSteps;
use super::targets::Targets;

type NodeId = usize;

const ROOT: NodeId = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WalkStep {
    Root,
    Word,
    Star,
    Hash,
}

#[derive(Debug)]
struct TopicNode<D> {
    step: WalkStep,
    parent: NodeId,
    /// The word on the edge from the parent.
    word: Box<[u8]>,
    words: HashMap<Box<[u8]>, NodeId>,
    star: Option<NodeId>,
    hash: Option<NodeId>,
    /// Whether there is a `#` between the root and this node, excluding the node itself.
    is_under_hash: bool,
    targets: Targets<D>,
}

impl<D: Clone + Eq + Hash> TopicNode<D> {
    fn new(step: WalkStep, parent: NodeId, word: &[u8], is_under_hash: bool) -> Self {
        Self {
            step,
            parent,
            word: word.into(),
            words: HashMap::new(),
            star: None,
            hash: None,
            is_under_hash,
            targets: Targets::default(),
        }
    }

    fn is_bare(&self) -> bool {
        self.targets.is_empty()
            && self.words.is_empty()
            && self.star.is_none()
            && self.hash.is_none()
    }

    fn child(&self, word: &[u8]) -> Option<NodeId> {
        match word {
            b"*" => self.star,
            b"#" => self.hash,
            _ => self.words.get(word).copied(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Trie<D> {
    nodes: Vec<TopicNode<D>>,
    free: Vec<NodeId>,
}

impl<D: Clone + Eq + Hash> Default for Trie<D> {
    fn default() -> Self {
        Self {
            nodes: vec![TopicNode::new(WalkStep::Root, ROOT, b"", false)],
            free: Vec::new(),
        }
    }
}

/// Returns the most memory that a pattern uses in a trie, in bytes: each of its words may be a node
/// of its own, with a map of children.
pub(super) fn footprint<D>(pattern: &[u8]) -> usize {
    /// A map with one entry.
    const MAP_BYTES: usize = 160;
    // The nodes are in a vector, which grows by doubling.
    words(pattern).count() * (2 * size_of::<TopicNode<D>>() + MAP_BYTES) + 2 * pattern.len()
}

/// Splits a key into words. The empty key has none.
fn words(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let count = if key.is_empty() { 0 } else { usize::MAX };
    key.split(|&octet| octet == b'.').take(count)
}

impl<D: Clone + Eq + Hash> Trie<D> {
    pub(super) fn add(&mut self, pattern: &[u8], destination: &D) {
        let mut node = ROOT;
        for word in words(pattern) {
            node = self.nodes[node]
                .child(word)
                .unwrap_or_else(|| self.grow(node, word));
        }
        self.nodes[node].targets.add(destination);
    }

    fn grow(&mut self, parent: NodeId, word: &[u8]) -> NodeId {
        let step = match word {
            b"*" => WalkStep::Star,
            b"#" => WalkStep::Hash,
            _ => WalkStep::Word,
        };
        let is_under_hash =
            self.nodes[parent].is_under_hash || self.nodes[parent].step == WalkStep::Hash;
        let node = TopicNode::new(step, parent, word, is_under_hash);
        let id = self.free.pop().unwrap_or(self.nodes.len());
        if id == self.nodes.len() {
            self.nodes.push(node);
        } else {
            self.nodes[id] = node;
        }
        let parent = &mut self.nodes[parent];
        match step {
            WalkStep::Star => parent.star = Some(id),
            WalkStep::Hash => parent.hash = Some(id),
            WalkStep::Word | WalkStep::Root => {
                parent.words.insert(word.into(), id);
            }
        }
        id
    }

    pub(super) fn remove(&mut self, pattern: &[u8], destination: &D) {
        let mut node = ROOT;
        for word in words(pattern) {
            let Some(child) = self.nodes[node].child(word) else {
                return;
            };
            node = child;
        }
        self.nodes[node].targets.remove(destination);
        while node != ROOT && self.nodes[node].is_bare() {
            node = self.prune(node);
        }
    }

    /// Removes a bare node from its parent and returns the parent.
    fn prune(&mut self, id: NodeId) -> NodeId {
        let (step, parent) = (self.nodes[id].step, self.nodes[id].parent);
        let word = std::mem::take(&mut self.nodes[id].word);
        // It keeps nothing for its next use.
        self.nodes[id].words = HashMap::new();
        self.nodes[id].targets = Targets::default();
        let above = &mut self.nodes[parent];
        match step {
            WalkStep::Star => above.star = None,
            WalkStep::Hash => above.hash = None,
            WalkStep::Word | WalkStep::Root => {
                above.words.remove(&word);
            }
        }
        self.free.push(id);
        parent
    }

    pub(super) fn route<'a>(
        &'a self,
        key: &[u8],
        steps: &mut RoutingSteps,
        hit: &mut impl FnMut(&'a D) -> bool,
    ) {
        let mut walk = TopicWalk {
            trie: self,
            active: Vec::new(),
            opened: HashSet::new(),
            steps,
        };
        walk.activate(ROOT);
        for word in words(key) {
            walk.match_word(word);
        }
        for id in walk.active {
            walk.steps.report(self.nodes[id].targets.iter(), hit);
        }
    }
}

struct TopicWalk<'a, D> {
    trie: &'a Trie<D>,
    /// The nodes reached by the words so far.
    active: Vec<NodeId>,
    /// Nodes below a `#` whose own `#` child is active already.
    opened: HashSet<NodeId>,
    steps: &'a mut RoutingSteps,
}

impl<D: Clone + Eq + Hash> TopicWalk<'_, D> {
    /// Activates a node and its `#` child, because `#` also matches no word at all.
    fn activate(&mut self, mut id: NodeId) {
        loop {
            self.active.push(id);
            self.steps.add(1);
            let node = &self.trie.nodes[id];
            let Some(hash) = node.hash else { return };
            if node.is_under_hash && !self.opened.insert(id) {
                return;
            }
            id = hash;
        }
    }

    fn match_word(&mut self, word: &[u8]) {
        self.steps.add(1);
        for id in std::mem::take(&mut self.active) {
            if self.steps.are_too_many() {
                return;
            }
            let node = &self.trie.nodes[id];
            if node.step == WalkStep::Hash {
                self.active.push(id);
                self.steps.add(1);
            }
            if let Some(&child) = node.words.get(word) {
                self.activate(child);
            }
            if let Some(star) = node.star {
                self.activate(star);
            }
        }
    }
}
