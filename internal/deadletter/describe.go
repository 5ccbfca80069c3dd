package deadletter

// Describe says what the body of an update is like, without any of its content: see [Content].
func Describe(body []byte) Content { return describe(body) }
