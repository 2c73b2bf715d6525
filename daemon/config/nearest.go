package config

import "strings"

// nearest returns the candidate that word was most likely meant to be, "" if none is near: at most a third of its
// letters, and at least one, may be wrong; or one of the two begins with the other ("warning", "warn"). The first of
// several equally near ones wins.
func nearest(word string, candidates []string) string {
	best, bestDistance := "", max(1, len(word)/3)+1
	for _, c := range candidates {
		d := distance(strings.ToLower(word), strings.ToLower(c))
		if d >= bestDistance && best == "" && len(word) > 2 && (strings.HasPrefix(c, word) || strings.HasPrefix(word, c)) {
			d = bestDistance - 1
		}
		if d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// didYouMean is the hint that names the nearest candidate, "" if there is none.
func didYouMean(candidate string) string {
	if candidate == "" {
		return ""
	}
	return "did you mean `" + candidate + "`?"
}

// distance is the optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
// Swaps count as one because they are what fingers do.
func distance(a, b string) int {
	before, previous, current := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range current {
		current[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, previous, current = previous, current, before
		current[0] = i
		for j := 1; j <= len(b); j++ {
			substitution := previous[j-1]
			if a[i-1] != b[j-1] {
				substitution++
			}
			current[j] = min(previous[j]+1, current[j-1]+1, substitution)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], before[j-2]+1)
			}
		}
	}
	return current[len(b)]
}
