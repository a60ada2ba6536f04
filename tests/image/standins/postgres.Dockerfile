# The development wheel's Postgres with the official image's variables, for use if postgres:17 cannot be pulled.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE}
RUN echo postgres:x:999:999::/:/bin/sh >>/etc/passwd && echo postgres:x:999: >>/etc/group && \
    install -d -o postgres -g postgres /var/lib/postgresql/data /var/run/postgresql
COPY pginstall /opt/postgres
COPY postgres-entrypoint /usr/local/bin/docker-entrypoint.sh
ENV PATH=/opt/postgres/bin:/usr/local/bin:/usr/bin:/bin PGDATA=/var/lib/postgresql/data
VOLUME /var/lib/postgresql/data
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
