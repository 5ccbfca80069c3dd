package config

import "strings"

// nearest is the key that was probably meant, or "": the one the text is another name of, else the one with the
// fewest changed letters, if they are few.
func nearest(text string, options []Option) string {
	plain := strings.ReplaceAll(strings.ToLower(text), "_", "-")
	best, least := "", max(1, len(plain)/3)+1
	for _, o := range options {
		if o.Key == keyConfig {
			continue
		}
		_, bare, _ := strings.Cut(o.Key, ".")
		env := strings.ReplaceAll(strings.ToLower(o.Env), "_", "-")
		if plain == o.Key || plain == o.Flag || plain == env || plain == bare {
			return o.Key
		}
		if d := distance(plain, o.Key); d < least {
			best, least = o.Key, d
		}
	}
	return best
}

// distance counts the letters to add, drop or change to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
