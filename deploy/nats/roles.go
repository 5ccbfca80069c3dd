// Package nats is what nats-server needs for kexrelay: its configuration, beside this file, and the keys and credentials
// that fit it. roles.conf says what each role may do; nkeys.conf gives that to the server, and this package signs it
// into credentials for jwt.conf, so that there is one list.
package nats

import (
	_ "embed" // For the list of roles.
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/conf"
)

//go:embed roles.conf
var rolesConf string

// Permissions are what a role may do, by its name in lower case.
func Permissions() (map[string]jwt.Permissions, error) {
	parsed, err := conf.Parse(rolesConf)
	if err != nil {
		return nil, fmt.Errorf("reading roles.conf: %w", err)
	}
	permissions := make(map[string]jwt.Permissions, len(parsed))
	for name, value := range parsed {
		role, isRole := strings.CutPrefix(name, "ROLE_")
		if !isRole {
			return nil, fmt.Errorf("reading roles.conf: %s is no role", name)
		}
		if permissions[strings.ToLower(role)], err = permissionsOf(value); err != nil {
			return nil, fmt.Errorf("reading %s in roles.conf: %w", name, err)
		}
	}
	return permissions, nil
}

// Roles are the names of the roles.
func Roles() ([]string, error) {
	permissions, err := Permissions()
	return slices.Sorted(maps.Keys(permissions)), err
}

func permissionsOf(value any) (p jwt.Permissions, err error) {
	fields, ok := value.(map[string]any)
	if !ok {
		return p, errors.New("it is no map")
	}
	for name, field := range fields {
		switch name {
		case "publish":
			p.Pub, err = subjectsOf(field)
		case "subscribe":
			p.Sub, err = subjectsOf(field)
		case "allow_responses":
			p.Resp, err = responsesOf(field)
		default:
			err = fmt.Errorf("%s is not known here", name)
		}
		if err != nil {
			return p, err
		}
	}
	return p, nil
}

// subjectsOf reads a list of subjects; deny is not used in roles.conf and so not known.
func subjectsOf(value any) (jwt.Permission, error) {
	var p jwt.Permission
	list, ok := value.([]any)
	if !ok {
		return p, errors.New("the subjects are no list")
	}
	for _, item := range list {
		subject, ok := item.(string)
		if !ok {
			return p, fmt.Errorf("%v is no subject", item)
		}
		p.Allow.Add(subject)
	}
	return p, nil
}

func responsesOf(value any) (*jwt.ResponsePermission, error) {
	fields, ok := value.(map[string]any)
	if !ok {
		return nil, errors.New("allow_responses is no map")
	}
	most, isNumber := fields["max"].(int64)
	text, isText := fields["expires"].(string)
	expires, err := time.ParseDuration(text)
	if !isNumber || !isText || err != nil || len(fields) != 2 {
		return nil, errors.New("allow_responses has not a number max and a duration expires")
	}
	return &jwt.ResponsePermission{MaxMsgs: int(most), Expires: expires}, nil
}
