package update

// checkComments checks a comments body: a JSON array of at least one string. Each becomes a comment; what is in
// them, empty ones included, is the API's business (it ignores empty ones).
func checkComments(body []byte) error {
	s := scanner{body: body, field: fieldBody, index: -1}
	if err := s.open('[', "an array of strings"); err != nil {
		return err
	}
	if s.peek() == ']' {
		return invalid(fieldComments + ": the array is empty")
	}
	s.field = fieldComments
	for more := true; more; {
		s.index++
		if err := s.wantString(); err != nil {
			return err
		}
		err := s.skipString()
		if err != nil {
			return err
		}
		if more, err = s.more(']'); err != nil {
			return err
		}
	}
	return s.end()
}
