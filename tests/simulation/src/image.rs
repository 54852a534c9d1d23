//! States of a database, by one number per page.

/// A hash of a page's bytes.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut h = 0x51_7c_c1_b7_27_22_0a_95u64;
    for word in bytes.chunks(8) {
        let mut b = [0u8; 8];
        b[..word.len()].copy_from_slice(word);
        h = (h ^ u64::from_le_bytes(b)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    h ^ (h >> 32)
}

fn place(index: usize, page: u64) -> u64 {
    (page ^ (index as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93))
        .wrapping_mul(0xff51_afd7_ed55_8ccd)
        .rotate_left(31)
        .wrapping_mul(0xc4ce_b9fe_1a85_ec53)
}

/// What tells one state from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Digest {
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages.
    pub pages: u32,
    sum: u64,
}

/// A state.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Bytes of a page; 0: there is no state.
    pub page_size: u32,
    pages: Vec<u64>,
    sum: u64,
}

impl Image {
    /// The state that `bytes` are.
    pub fn of(bytes: &[u8], page_size: u32) -> Image {
        let mut image = Image { page_size, ..Image::default() };
        for (i, page) in bytes.chunks(page_size.max(1) as usize).enumerate() {
            image.set(i, hash(page));
        }
        image
    }

    /// Sets page `index` (from 0); pages before it that were never set are zeros.
    pub fn set(&mut self, index: usize, page: u64) {
        if self.pages.len() <= index {
            self.resize(index + 1);
        }
        self.sum ^= place(index, self.pages[index]) ^ place(index, page);
        self.pages[index] = page;
    }

    /// Cuts it, or makes it longer with pages of zeros.
    pub fn resize(&mut self, pages: usize) {
        while self.pages.len() > pages {
            let last = self.pages.pop().unwrap_or_default();
            self.sum ^= place(self.pages.len(), last);
        }
        if self.pages.len() < pages {
            let zeros = hash(&vec![0; self.page_size as usize]);
            while self.pages.len() < pages {
                self.sum ^= place(self.pages.len(), zeros);
                self.pages.push(zeros);
            }
        }
    }

    /// What it is, in short.
    pub fn digest(&self) -> Digest {
        Digest { page_size: self.page_size, pages: self.pages.len() as u32, sum: self.sum }
    }

    /// Indexes (from 0) of pages that differ.
    pub fn differences(&self, other: &Image) -> Vec<usize> {
        let n = self.pages.len().max(other.pages.len());
        (0..n).filter(|&i| self.pages.get(i) != other.pages.get(i)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_changes_does_not_matter() {
        let mut a = Image::of(&[1; 1024], 512);
        a.set(3, hash(&[2; 512]));
        a.resize(2);
        assert_eq!(a.digest(), Image::of(&[1; 1024], 512).digest());
        let mut b = a.clone();
        b.set(0, hash(&[9; 512]));
        assert_ne!(a.digest(), b.digest());
        assert_eq!(a.differences(&b), [0]);
    }
}
