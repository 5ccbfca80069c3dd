package update

import "fmt"

// skipValue reads a value that passes through unread: its grammar is checked, its content is not. It keeps the
// open brackets in the bits of one word instead of recursing, so that no nesting can cost stack.
func (s *scanner) skipValue() error {
	var open nesting
	for {
		entered, err := s.enter(&open)
		if err != nil {
			return err
		}
		if entered {
			continue
		}
		done, err := s.leave(&open)
		if done || err != nil {
			return err
		}
	}
}

// nesting is the open objects and arrays inside a member of the body, innermost in the lowest bit: 1 is an object.
type nesting struct {
	kinds uint64
	depth int
}

func (n *nesting) push(object bool) {
	n.kinds <<= 1
	if object {
		n.kinds |= 1
	}
	n.depth++
}

func (n *nesting) pop() {
	n.kinds >>= 1
	n.depth--
}

func (n *nesting) inObject() bool { return n.kinds&1 == 1 }

// enter reads a value up to the first value inside it (entered), or the whole of it if it holds none.
func (s *scanner) enter(open *nesting) (entered bool, err error) {
	c := s.peek()
	if c != '{' && c != '[' {
		return false, s.skipScalar(c)
	}
	if open.depth+1 >= MaxDepth { // The body itself is one level more.
		return false, invalid(fmt.Sprintf("body: nests deeper than %d levels at byte %d", MaxDepth, s.pos))
	}
	s.pos++
	if s.peek() == c+2 { // In ASCII, } and ] are two after their opening brackets.
		s.pos++
		return false, nil
	}
	open.push(c == '{')
	if c == '{' {
		return true, s.skipKey()
	}
	return true, nil
}

// leave reads what follows a value: the comma before the next one, or the brackets that it was the last in.
func (s *scanner) leave(open *nesting) (done bool, err error) {
	for open.depth > 0 {
		closing := byte(']')
		if open.inObject() {
			closing = '}'
		}
		more, err := s.more(closing)
		if err != nil {
			return false, err
		}
		if more {
			if open.inObject() {
				err = s.skipKey()
			}
			return false, err
		}
		open.pop()
	}
	return true, nil
}

// skipKey reads a member's name and its colon.
func (s *scanner) skipKey() error {
	if s.peek() != '"' {
		return s.unexpected()
	}
	s.pos++
	if err := s.skipString(); err != nil {
		return err
	}
	return s.colon()
}

func (s *scanner) colon() error {
	if s.peek() != ':' {
		return s.unexpected()
	}
	s.pos++
	return nil
}

func (s *scanner) skipScalar(c byte) error {
	switch {
	case c == '"':
		s.pos++
		return s.skipString()
	case c == '-' || isDigit(c):
		return s.skipNumber()
	}
	for _, word := range []string{"true", "false", "null"} {
		if s.at(word) {
			s.pos += len(word)
			return nil
		}
	}
	return s.unexpected()
}

// skipNumber reads -? int frac? exp?, with no zero before other digits.
func (s *scanner) skipNumber() error {
	s.accept("-")
	if !s.accept("0") && s.digits() == 0 {
		return s.unexpected()
	}
	if s.accept(".") && s.digits() == 0 {
		return s.unexpected()
	}
	if s.accept("eE") {
		s.accept("+-")
		if s.digits() == 0 {
			return s.unexpected()
		}
	}
	return nil
}

// accept reads the next byte if it is one of oneOf.
func (s *scanner) accept(oneOf string) bool {
	if s.pos >= len(s.body) {
		return false
	}
	for i := range len(oneOf) {
		if s.body[s.pos] == oneOf[i] {
			s.pos++
			return true
		}
	}
	return false
}

func (s *scanner) digits() (n int) {
	for s.pos < len(s.body) && isDigit(s.body[s.pos]) {
		s.pos++
		n++
	}
	return n
}
