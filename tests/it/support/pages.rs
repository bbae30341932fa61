//! The fenced blocks of a page of the documents.

/// What stands between two fences.
#[derive(Debug, Clone)]
pub struct Block {
    /// The first word behind the fence.
    pub language: String,
    /// The others, as in `file=plugin.js`.
    words: Vec<String>,
    pub text: String,
    /// Where it begins.
    pub line: usize,
}

impl Block {
    /// All of a page, in order.
    pub fn all(page: &str) -> Vec<Self> {
        let mut blocks: Vec<Self> = Vec::new();
        let mut is_open = false;
        for (n, line) in page.lines().enumerate() {
            match line.strip_prefix("```") {
                Some(_) if is_open => is_open = false,
                Some(info) => {
                    let mut words = info.split_whitespace().map(str::to_owned);
                    let language = words.next().unwrap_or_default();
                    blocks.push(Self { language, words: words.collect(), text: String::new(), line: n + 1 });
                    is_open = true;
                }
                None if is_open => {
                    let block = blocks.last_mut().unwrap();
                    block.text += line;
                    block.text.push('\n');
                }
                None => {}
            }
        }
        assert!(!is_open, "a block does not end");
        blocks
    }

    pub fn has(&self, word: &str) -> bool {
        self.words.iter().any(|it| it == word)
    }

    /// What stands behind `key=`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
}
